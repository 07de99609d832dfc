"""Writes pairs to WebDataset tars with the webdataset library.

A tar is whole or absent, and the same pairs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from align_train.errors import UserError
from align_train.files import whole
from align_train.shards.row import Shard


def write_shard(path: Path, pairs: Iterable[tuple[str, Mapping[str, bytes]]]) -> Shard:
    """Writes one tar.

    Args:
        path: The tar. Its folder is made if it is missing.
        pairs: For each pair its key, and its members' bytes by extension.

    Returns:
        The shard's row for a manifest.

    Raises:
        UserError: The tar cannot be written.
    """
    from webdataset import TarWriter  # only who writes shards wants it

    count = 0
    try:
        # The same bytes each time: no time of change, and no encoding that a version may change.
        # By a name, webdataset would open a URL or start a shell's command (`pipe:`).
        with (
            whole(path) as aside,
            aside.open("wb") as file,
            TarWriter(file, encoder=False, mtime=0) as tar,
        ):
            for key, members in pairs:
                tar.write({"__key__": key, **members})
                count += 1
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); "
            f"free some space or choose another folder"
        ) from None

    return Shard(str(path), count, path.stat().st_size)
