"""Pairs -> WebDataset tars, through the webdataset library's writer; whole or absent, the same bytes for the same pairs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from webdataset import TarWriter

from align_train.errors import UserError
from align_train.shards.manifest import Shard


def write_shard(path: Path, pairs: Iterable[tuple[str, Mapping[str, bytes]]]) -> Shard:
    """Writes (key, {extension: bytes}) pairs to a tar, aside first; returns its row for the manifest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    count = 0
    try:
        with TarWriter(str(aside), encoder=False, mtime=0) as tar:
            for key, members in pairs:
                tar.write({"__key__": key, **members})
                count += 1
        os.replace(aside, path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another folder"
        ) from None
    finally:
        aside.unlink(missing_ok=True)
    return Shard(str(path), count, path.stat().st_size)
