"""Opens any value of `data.shards` as a manifest.

It takes a manifest, a folder, a glob, a brace range (`{00000..00099}.tar`), or a list of these,
each a path or a URL. `find.py` finds the local files. Tars without a manifest are counted by their
indices, which are built once and kept.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath

from align_train.cluster.sharing import from_first
from align_train.errors import UserError
from align_train.files import nearest_path
from align_train.shards.braces import expand_braces
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.count import scan
from align_train.shards.find import MISSING, Found, ends_with, find_files, path_of
from align_train.shards.foreign import FOREIGN, is_foreign
from align_train.shards.hub import is_hub
from align_train.shards.left_out import LeftOut
from align_train.shards.manifest import (
    HOW_TO_PREPARE,
    MANIFEST_NAME,
    Manifest,
    checked,
    read_manifest,
)
from align_train.shards.members import ANY, Members, prefix_of
from align_train.shards.recorded import refuse_other_settings
from align_train.shards.remote import is_url
from align_train.shards.row import Shard
from align_train.shards.tar_end import COMPRESSED, compression

_TAR = ends_with(".tar")
_is_compressed = ends_with(*COMPRESSED)


def resolve(
    shards: str | Sequence[str],
    *,
    caption: CaptionSource,
    members: Members = ANY,
    cache: ShardCache | None = None,
    mixed: bool = False,
    anew: bool = False,
    progress: bool = True,
    by_rates: bool = False,
    key: str = "data.shards",
) -> Manifest:
    """Opens a value of `data.shards`.

    Args:
        shards: A manifest, folder, glob or brace range, as a path or URL; or a list of these.
        caption: Where the texts lie: an image without its text is counted, and bad.
        members: How members of the tars make pairs.
        cache: Fetches remote files; None: one with the default settings.
        mixed: Whether the items of the list are data sets of their own, to be mixed by weights.
        anew: Whether the tars of a local folder are counted though it has a manifest.
        progress: Whether to show a progress bar while tars are counted.
        by_rates: Whether pairs come as often as their rates say, as in training; else each that
            has a rate above 0 comes once.
        key: The setting that errors name.

    Returns:
        One manifest of all.

    Raises:
        UserError: The value names no shards, or a shard cannot be read; or a manifest was made for
            other members.
    """
    items = _items(shards, key)
    resolver = _Resolver(cache or ShardCache(), key, members, anew)
    count = partial(
        scan, caption=caption, members=members, cache=resolver.cache, progress=progress, key=key
    )
    if isinstance(shards, str):
        found = resolver.resolve(shards, count)
        return found if by_rates else found.once()

    rows: list[Shard] = []
    lengths: list[int] = []
    for item in items:
        part = resolver.resolve(item, count)
        rows += part.shards
        lengths.append(len(part.shards))
    sources = tuple(lengths) if mixed else None
    manifest = checked(Manifest(tuple(rows), ", ".join(items), sources))
    return manifest if by_rates else manifest.once()


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
        # A file is there, and a manifest knows its shards itself.
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

    _refuse_compressed(shards, found, key)
    if not found.files:
        # Whatever was left out may be the reason.
        found.left_out.say(shards)
        what = f"no such manifest, folder or shard{nearest_path(path_of(shards))}"
        if os.path.isdir(path_of(shards)):
            what = f"the folder holds neither {MANIFEST_NAME} nor *.tar"
        raise UserError(f"{key}={shards}: {what}; {HOW_TO_PREPARE}")
    return found


def _refuse_compressed(shards: str, found: Found, key: str) -> None:
    packed = [path for path in (*found.files, *found.others) if _is_compressed(path)]
    if packed:
        many = f"the first of {len(packed)} such files, " if len(packed) > 1 else ""
        raise UserError(
            f"{key}={shards}: {packed[0]} is {many}{compression(b'', packed[0].name)}, "
            f"which makes *.tar of it"
        )


def first_shards(
    shards: str | Sequence[str],
    most: int,
    *,
    members: Members = ANY,
    cache: ShardCache,
    anew: bool = False,
    key: str = "data.shards",
) -> list[str]:
    """Names the first shards of a value of `data.shards`; counts nothing. Collective.

    Args:
        shards: As `resolve` takes them; of a list the first item.
        most: How many are wanted.
        members: How members of the tars make pairs.
        cache: Fetches a remote manifest.
        anew: As of `resolve`.
        key: The setting that errors name.

    Returns:
        Paths or URLs: at least one.

    Raises:
        UserError: The value names no shards, or its manifest was made for other members.
    """
    found = _Resolver(cache, key, members, anew).find(_items(shards, key)[0])
    if isinstance(found, Manifest):
        # One without pairs would tell nothing of the members.
        return [shard.url for shard in found.shards if shard.pairs][:most]
    return found[:most]


def _items(shards: object, key: str) -> list[str]:
    """The items of a value of `data.shards`; UserError if it is no text and no list of texts."""
    items = [shards] if isinstance(shards, str) else shards
    if not isinstance(items, Sequence) or not all(isinstance(item, str) for item in items):
        raise UserError(
            f"{key}={shards}: expected a manifest, folder, glob or brace range, or a list of these"
        )
    if not items:
        raise UserError(f"{key}=[]: names no shards; {HOW_TO_PREPARE}")
    return list(items)


@dataclass(frozen=True)
class _Resolver:
    """Opens one item of `data.shards`; for the others see `resolve`."""

    cache: ShardCache
    key: str
    members: Members
    anew: bool = False

    def resolve(self, shards: str, count: Callable[..., Manifest]) -> Manifest:
        found = self.find(shards)
        if isinstance(found, Manifest):
            return found
        try:
            return count(found, source=shards)
        except FileNotFoundError as error:
            raise UserError(f"{self.key}={shards}: {error}; {HOW_TO_PREPARE}") from None

    def find(self, shards: str) -> Manifest | list[str]:
        """Finds the manifest of an item; without one, its tars."""
        if is_url(shards):
            return self._remote(shards)

        path = path_of(shards)
        if not self.anew and os.path.isfile(path / MANIFEST_NAME):
            path /= MANIFEST_NAME
        if os.path.isfile(path) and not _TAR(path) and not _is_compressed(path):
            return self._read(str(path))
        # One process lists for all: on a shared disk every rank would ask for the same names.
        return from_first(f"tars {shards}", partial(self._find, shards))

    def _find(self, shards: str) -> list[str]:
        found = _find_tars(shards, self.key)
        found.left_out.say(shards)
        return list(map(str, found.files))

    def _remote(self, shards: str) -> Manifest | list[str]:
        """Finds what lies at a URL.

        One that ends in .jsonl is a manifest. One that ends in .tar, or has a glob or a brace,
        names shards. Any other is a folder. Without a manifest, shards are fetched to be counted at
        each start: right for a few of them.
        """
        cache = self.cache
        if shards.endswith(".jsonl"):
            return self._read(cache.pinned(shards))
        if reason := compression(b"", shards):
            raise UserError(f"{self.key}={shards}: {reason}, and put it there as .tar")

        tars: list[str] = []
        for name in map(self.cache.pinned, expand_braces(shards)):
            if glob.has_magic(name):
                tars += from_first(f"tars {name}", partial(cache.glob, name))
            elif name.lower().endswith(".tar"):
                tars.append(name)
            else:
                folder = name.rstrip("/")
                # A listing of the hub says whether there is a manifest. Of other places to ask for
                # the manifest is cheaper than to list the folder.
                if is_hub(folder):
                    files = from_first(f"tars {folder}", partial(self._list, folder))
                    if f"{folder}/{MANIFEST_NAME}" in files:
                        return self._read(f"{folder}/{MANIFEST_NAME}")
                    tars += files
                    continue
                try:
                    return self._read(f"{folder}/{MANIFEST_NAME}")
                except FileNotFoundError:
                    pattern = f"{folder}/*.tar"
                    tars += from_first(f"tars {pattern}", partial(cache.glob, pattern))
        # Sorted: the order of training is a function of the order of the shards, and a listing has
        # none.
        own = sorted(tar for tar in set(tars) if not is_foreign(PurePosixPath(tar)))
        if not own:
            raise UserError(
                f"{self.key}={shards}: neither {MANIFEST_NAME} nor *.tar there; {HOW_TO_PREPARE}"
            )

        LeftOut.of(FOREIGN, set(tars) - set(own)).say(shards)
        return own

    def _list(self, folder: str) -> list[str]:
        """The tars and the manifest in a folder of the hub."""
        manifest = f"{folder}/{MANIFEST_NAME}"
        files = self.cache.glob(f"{folder}/*")
        return [file for file in files if file == manifest or file.lower().endswith(".tar")]

    def _read(self, url: str) -> Manifest:
        manifest = read_manifest(url, cache=self.cache)
        refuse_other_settings(
            (row.members for row in manifest.shards),
            self.members,
            source=manifest.source,
            prefix=prefix_of(self.key),
        )
        # Without the hub nothing has to be pinned, and no row to be copied.
        if not any(is_hub(row.url) for row in manifest.shards):
            return manifest
        rows = [replace(row, url=self.cache.pinned(row.url)) for row in manifest.shards]
        return replace(manifest, shards=tuple(rows))
