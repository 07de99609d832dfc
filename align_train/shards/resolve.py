"""Opens any value of `data.shards` as a manifest.

It takes a manifest, a folder, a glob, a brace range (`{00000..00099}.tar`), or a list of these,
each a path or a URL. `find.py` finds the local files. Tars without a manifest are counted by their
indices, which are built once and kept.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from tqdm import tqdm

from align_train.cluster.pools import threads
from align_train.cluster.sharing import from_first, note_progress
from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.find import (
    FOREIGN,
    MISSING,
    Found,
    braces,
    ends_with,
    find_files,
    is_foreign,
    path_of,
)
from align_train.shards.left_out import LeftOut
from align_train.shards.manifest import (
    HOW_TO_PREPARE,
    MANIFEST_NAME,
    Manifest,
    Shard,
    checked,
    read_manifest,
)
from align_train.shards.remote import is_url
from align_train.shards.tar_index import load_index

_COUNTED_AT_A_TIME = 8

_TAR = ends_with(".tar")


def resolve(
    shards: str | Sequence[str],
    *,
    caption: CaptionSource,
    cache: ShardCache | None = None,
    mixed: bool = False,
    progress: bool = True,
    key: str = "data.shards",
) -> Manifest:
    """Opens a value of `data.shards`.

    Args:
        shards: A manifest, folder, glob or brace range, as a path or URL; or a list of these.
        caption: Where the texts lie: an image without its text is counted, and bad.
        cache: Fetches remote files; None: one with the default settings.
        mixed: Whether the items of the list are data sets of their own, to be mixed by weights.
        progress: Whether to show a progress bar while tars are counted.
        key: The setting that errors name.

    Returns:
        One manifest of all.

    Raises:
        UserError: The value names no shards, or a shard cannot be read.
    """
    is_list = isinstance(shards, Sequence) and all(isinstance(item, str) for item in shards)
    if not isinstance(shards, str) and not is_list:
        raise UserError(
            f"{key}={shards}: expected a manifest, folder, glob or brace range, or a list of these"
        )

    resolver = _Resolver(caption, cache or ShardCache(), progress, key)
    if isinstance(shards, str):
        return resolver.resolve(shards)
    if not shards:
        raise UserError(f"{key}=[]: names no shards; {HOW_TO_PREPARE}")

    rows: list[Shard] = []
    lengths: list[int] = []
    for item in shards:
        part = resolver.resolve(item)
        rows += part.shards
        lengths.append(len(part.shards))
    sources = tuple(lengths) if mixed else None
    return checked(Manifest(tuple(rows), ", ".join(shards), sources))


def refuse_absent(shards: str | Sequence[str], *, key: str) -> None:
    """Refuses local shards that are not there, without opening any.

    Args:
        shards: As of `resolve`; URLs, and values that `resolve` refuses, are left to it.
        key: The setting that errors name.

    Raises:
        UserError: As `resolve`.
    """
    for item in [shards] if isinstance(shards, str) else shards:
        if not isinstance(item, str) or is_url(item):
            continue
        path = path_of(item)
        if not os.path.isfile(path) and not os.path.isfile(path / MANIFEST_NAME):
            _find_tars(item, key)


def _find_tars(shards: str, key: str) -> Found:
    """Finds the tars of a folder, a glob or a brace range; UserError if one is missing."""
    found = find_files(shards, _TAR, deep=False)
    missing = found.left_out.counts.get(MISSING, 0)
    if missing:
        raise UserError(
            f"{key}={shards}: {missing} of {missing + len(found.files)} shards are "
            f"missing, first {found.left_out.first(MISSING)}; {HOW_TO_PREPARE}"
        )

    if not found.files:
        # Whatever was left out may be the reason.
        found.left_out.say(shards)
        what = "no such manifest, folder or shard"
        if os.path.isdir(path_of(shards)):
            what = f"the folder holds neither {MANIFEST_NAME} nor *.tar"
        raise UserError(f"{key}={shards}: {what}; {HOW_TO_PREPARE}")
    return found


def scan(
    urls: Sequence[str],
    *,
    caption: CaptionSource,
    source: str,
    cache: ShardCache | None = None,
    progress: bool = True,
) -> Manifest:
    """Counts the pairs of tars by their indices, and builds those that are missing.

    Args:
        urls: The tars' paths or URLs.
        caption: Where the texts lie.
        source: Where the tars come from, for errors.
        cache: Fetches remote tars; None: one with the default settings.
        progress: Whether to show a progress bar.

    Returns:
        The manifest, in the order of `urls`.

    Raises:
        Vanished: A remote tar does not exist.
        UserError: A tar cannot be read, is broken, or has no pairs.
    """
    shard_cache = cache or ShardCache()
    left_out = LeftOut()

    def count() -> list[tuple[str, int, int]]:
        rows = []
        # Threads suffice: each waits for the disk or the network most of its time.
        with threads(_COUNTED_AT_A_TIME) as pool:
            for shard, foreign in tqdm(
                pool.map(lambda url: _count(url, caption, shard_cache), urls),
                total=len(urls),
                desc="counting shards",
                disable=not progress,
                leave=False,
                delay=1,
            ):
                rows.append((shard.url, shard.pairs, shard.bytes))
                left_out.add(FOREIGN, shard.url, count=foreign)
                note_progress()
        return rows

    counted = from_first(f"shards {source} {caption.extension} {caption.field}", count)
    left_out.say(source)
    shards = tuple(Shard(url, pairs, size) for url, pairs, size in counted)
    return checked(Manifest(shards, source))


def _count(url: str, caption: CaptionSource, cache: ShardCache) -> tuple[Shard, int]:
    """Counts a tar's pairs, and the files in it that an operating system left there."""
    # With the size, or a copy from before the tar was made anew would be counted.
    path = cache.local(url, cache.size(url))
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
    has_text = pairs[:, 1] >= 0
    if not has_text.any():
        raise UserError(
            f"{url}: no pairs: {len(pairs)} of {len(index.names)} members are images, and texts "
            f"are looked for in .{caption.extension} "
            f"(data.caption)"
        )
    return Shard(url, len(pairs), size), index.foreign


@dataclass(frozen=True)
class _Resolver:
    """Opens one item of `data.shards`. key: the setting that errors name."""

    caption: CaptionSource
    cache: ShardCache
    progress: bool
    key: str

    def resolve(self, shards: str) -> Manifest:
        if is_url(shards):
            return self._remote(shards)

        path = path_of(shards)
        if os.path.isfile(path / MANIFEST_NAME):
            path /= MANIFEST_NAME
        if os.path.isfile(path) and not _TAR(path):
            return read_manifest(str(path), cache=self.cache)
        return self._scan(from_first(f"tars {shards}", partial(self._find, shards)), shards)

    def _find(self, shards: str) -> list[str]:
        found = _find_tars(shards, self.key)
        found.left_out.say(shards)
        return list(map(str, found.files))

    def _remote(self, shards: str) -> Manifest:
        """Opens a URL.

        One that ends in .jsonl is a manifest. One that ends in .tar, or has a glob or a brace,
        names shards. Any other is a folder. Without a manifest, shards are fetched to be counted at
        each start: right for a few of them.
        """
        if shards.endswith(".jsonl"):
            return read_manifest(shards, cache=self.cache)

        tars: list[str] = []
        for name in braces(shards):
            if glob.has_magic(name):
                tars += from_first(f"tars {name}", partial(self.cache.glob, name))
            elif name.lower().endswith(".tar"):
                tars.append(name)
            else:
                folder = name.rstrip("/")
                # To ask for the manifest is cheaper than to list the folder.
                try:
                    return read_manifest(f"{folder}/{MANIFEST_NAME}", cache=self.cache)
                except FileNotFoundError:
                    pattern = f"{folder}/*.tar"
                    tars += from_first(f"tars {pattern}", partial(self.cache.glob, pattern))
        own = sorted(tar for tar in set(tars) if not is_foreign(PurePosixPath(tar)))
        if not own:
            raise UserError(
                f"{self.key}={shards}: neither {MANIFEST_NAME} nor *.tar there; {HOW_TO_PREPARE}"
            )

        LeftOut.of(FOREIGN, set(tars) - set(own)).say(shards)
        try:
            return self._scan(own, shards)
        except FileNotFoundError as error:
            raise UserError(f"{self.key}={shards}: {error}; {HOW_TO_PREPARE}") from None

    def _scan(self, tars: list[str], shards: str) -> Manifest:
        return scan(
            tars,
            caption=self.caption,
            source=shards,
            cache=self.cache,
            progress=self.progress,
        )
