"""Writes pairs to WebDataset tars, the bytes that the webdataset library's `TarWriter` would give.

A tar is whole or absent, and the same pairs give the same bytes.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from align_train.errors import UserError
from align_train.files import whole
from align_train.shards.manifest import Shard


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
    count = 0
    try:
        with whole(path) as aside, tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
            for key, members in pairs:
                _add_pair(tar, key, members)
                count += 1
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); "
            f"free some space or choose another folder"
        ) from None

    return Shard(str(path), count, path.stat().st_size)


def _add_pair(tar: tarfile.TarFile, key: str, members: Mapping[str, bytes]) -> None:
    """Adds a pair's members, sorted by extension."""
    for extension in sorted(members):
        # The time of change stays 0: the same pairs give the same bytes whenever they are written.
        header = tarfile.TarInfo(f"{key}.{extension}")
        header.size = len(members[extension])
        header.mode = 0o444
        header.uname = header.gname = "bigdata"
        tar.addfile(header, io.BytesIO(members[extension]))
