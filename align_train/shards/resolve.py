from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from braceexpand import braceexpand
from tqdm import tqdm

from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import (
    HOW_TO_PREPARE,
    MANIFEST_NAME,
    Manifest,
    Shard,
    checked,
    read_manifest,
)
from align_train.shards.remote import is_url
from align_train.shards.tar_index import IMAGE_EXTENSIONS, load_index


def scan(
    urls: Sequence[str],
    *,
    caption: CaptionSource,
    source: str,
    stage: ShardCache | None = None,
    progress: bool = True,
) -> Manifest:
    """Counts the pairs of tars by their indices, building those that are missing, with a progress bar."""
    count = partial(_count, caption=caption, stage=stage or ShardCache())
    with ThreadPoolExecutor(max_workers=8) as pool:
        counted = list(
            tqdm(
                pool.map(count, urls),
                total=len(urls),
                desc="counting shards",
                disable=not progress,
                leave=False,
                delay=1,
            )
        )
    return checked(Manifest(tuple(counted), source))


def _count(url: str, *, caption: CaptionSource, stage: ShardCache) -> Shard:
    path = stage.local(url, stage.size(url))
    try:
        index = load_index(path)
        size = path.stat().st_size
    except OSError as error:
        raise UserError(
            f"{url}: cannot be read ({error.strerror}); check data.shards, or rebuild the manifest"
        ) from None
    if index.fault:
        raise UserError(f"{url}: {index.fault}; fetch it again or leave it out of data.shards")
    pairs = index.pairs(caption)
    if not (pairs[:, 1] >= 0).any():
        raise UserError(
            f"{url}: no pairs: {len(pairs)} of {len(index.names)} members are pictures "
            f"({', '.join(IMAGE_EXTENSIONS)}), and texts are looked for in .{caption.extension} (data.caption)"
        )
    return Shard(url, len(pairs), size)


def resolve(
    shards: str | Sequence[str],
    *,
    caption: CaptionSource,
    stage: ShardCache | None = None,
    mixed: bool = False,
    progress: bool = True,
    key: str = "data.shards",
) -> Manifest:
    """What `data.shards` takes: a manifest, a folder, a glob, a brace range, or a list of these, as one manifest.

    Each of these may be a URL of fsspec. mixed: the items of the list are sources of their own, to be mixed by weights.
    """
    stage = stage or ShardCache()
    if not isinstance(shards, str) and not (
        isinstance(shards, Sequence) and all(isinstance(item, str) for item in shards)
    ):
        raise UserError(
            f"{key}={shards}: expected a manifest, folder, glob or brace range, or a list of these"
        )
    if isinstance(shards, str):
        return _resolve(shards, caption=caption, stage=stage, progress=progress, key=key)
    if not shards:
        raise UserError(f"{key}=[]: names no shards; {HOW_TO_PREPARE}")
    parts = [
        _resolve(item, caption=caption, stage=stage, progress=progress, key=key) for item in shards
    ]
    rows = tuple(shard for part in parts for shard in part.shards)
    sources = tuple(len(part.shards) for part in parts) if mixed else None
    return checked(Manifest(rows, ", ".join(shards), sources))


def _resolve(
    shards: str, *, caption: CaptionSource, stage: ShardCache, progress: bool, key: str
) -> Manifest:
    if is_url(shards):
        return _resolve_url(shards, caption=caption, stage=stage, progress=progress, key=key)
    path = Path(shards).expanduser()
    if path.is_dir():
        if (path / MANIFEST_NAME).is_file():
            return read_manifest(str(path / MANIFEST_NAME), stage=stage)
        found = sorted(map(str, path.glob("*.tar")))
        if not found:
            raise UserError(
                f"{key}={shards}: the folder holds neither {MANIFEST_NAME} nor *.tar; {HOW_TO_PREPARE}"
            )
        return scan(found, caption=caption, source=shards, stage=stage, progress=progress)
    if path.is_file() and path.suffix != ".tar":
        return read_manifest(str(path), stage=stage)
    found = sorted(set(_expand(shards)))
    if not found:
        raise UserError(f"{key}={shards}: no such manifest, folder or shard; {HOW_TO_PREPARE}")
    missing = [item for item in found if not os.path.isfile(item)]
    if missing:
        raise UserError(
            f"{key}={shards}: {len(missing)} of {len(found)} shards are missing, first {missing[0]}; {HOW_TO_PREPARE}"
        )
    return scan(found, caption=caption, source=shards, stage=stage, progress=progress)


def _resolve_url(
    shards: str, *, caption: CaptionSource, stage: ShardCache, progress: bool, key: str
) -> Manifest:
    """A URL that ends in .jsonl is a manifest, one that ends in .tar, has a glob or a brace names shards, any other is a
    folder. Shards without a manifest are fetched to be counted, each time: right for a few, a warning for many."""
    if shards.endswith(".jsonl"):
        return read_manifest(shards, stage=stage)
    found: list[str] = []
    for name in _braces(shards):
        if glob.has_magic(name):
            found += stage.glob(name)
        elif name.endswith(".tar"):
            found.append(name)
        else:
            folder = name.rstrip("/")
            try:
                return read_manifest(f"{folder}/{MANIFEST_NAME}", stage=stage)
            except FileNotFoundError:
                found += stage.glob(f"{folder}/*.tar")
    if not found:
        raise UserError(
            f"{key}={shards}: neither {MANIFEST_NAME} nor *.tar there; {HOW_TO_PREPARE}"
        )
    try:
        return scan(
            sorted(set(found)), caption=caption, source=shards, stage=stage, progress=progress
        )
    except FileNotFoundError as error:
        raise UserError(f"{key}={shards}: {error}; {HOW_TO_PREPARE}") from None


def _braces(pattern: str) -> list[str]:
    try:
        return list(braceexpand(pattern))
    except ValueError:
        raise UserError(
            f"{pattern}: a brace is not closed; a range is written {{00000..00099}}.tar"
        ) from None


def _expand(pattern: str) -> Iterator[str]:
    """Brace ranges first (`{00000..00099}.tar`), then globs; a name without either stands for itself."""
    for name in _braces(str(Path(pattern).expanduser())):
        if glob.has_magic(name):
            yield from glob.glob(name)
        elif "{" in pattern or os.path.exists(name):
            yield name
