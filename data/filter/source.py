"""Opens the filter's source: tables, or shards whose tables are built from their tars."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from align_train.errors import UserError, shown
from align_train.shards.caption import CaptionSource
from align_train.shards.find import ends_with, find_files
from align_train.shards.found_caption import found_caption
from align_train.shards.manifest import MANIFEST_NAME
from align_train.shards.members import Members
from align_train.shards.remote import is_url
from align_train.shards.resolve import resolve
from align_train.stream.shard_cache import shard_cache_of

from ..tables.find import Tables, find
from ..tables.paths import paths_of
from ..tables.tars import Tars, files_of
from .settings import FilterSettings

TABLES = "tables"  # the folder of the tables that are built

_KEY = "source"


def open_source(settings: FilterSettings, work: Path) -> Tables:
    """Opens the source.

    Args:
        settings: Those of the command.
        work: The filter's own folder, in which tables will be built.

    Raises:
        UserError: It is neither, both, or cannot be read.
    """
    paths = paths_of(settings.source, _KEY)
    of_shards = [path for path in paths if _is_shards(path)]
    if of_shards and len(of_shards) < len(paths):
        other = next(path for path in paths if path not in of_shards)
        raise UserError(
            f"source={settings.source}: {of_shards[0]} names shards, {other} tables; give one kind"
        )
    if not of_shards:
        return find(settings.source)

    tars = _open_tars(settings, paths)
    return Tables(
        files=files_of(tars, work / TABLES),
        rows=tuple(shard.pairs for shard in tars.manifest.shards),
        types=tars.types,
        shards=False,
        tars=tars,
    )


def _is_shards(path: str) -> bool:
    """Whether a path names shards that have no tables beside them."""
    ending = path.lower()
    if ending.endswith((".tar", ".jsonl")):
        return True
    if is_url(path):
        # A folder at a URL is one of shards: tables are read from disks alone.
        return not ending.endswith(".parquet")

    # With tables beside the tars it is img2dataset's folder, whose tables are read as they are.
    folder = Path(path).expanduser()
    if not folder.is_dir() or find_files(folder, ends_with(".parquet"), deep=False).files:
        return False
    has_tars = bool(find_files(folder, ends_with(".tar"), deep=False).files)
    return has_tars or (folder / MANIFEST_NAME).is_file()


def _open_tars(settings: FilterSettings, paths: list[str]) -> Tars:
    cache = shard_cache_of(None, settings.storage_options)
    members = Members.parse(settings.image, settings.keys, prefix="")
    place = paths[0] if len(paths) == 1 else paths

    caption = settings.caption
    if caption is None:
        caption = found_caption(place, members=members, cache=cache, key=_KEY)
    source = CaptionSource.parse(caption, key="caption")
    manifest = resolve(place, caption=source, members=members, cache=cache, key=_KEY)

    manifest.refuse_rates(_KEY)

    # An earlier selection may have left nothing of a shard.
    shards = tuple(shard for shard in manifest.shards if shard.pairs)
    print(f"{shown(settings.source)}: texts are {source}")
    tars = Tars(
        manifest=replace(manifest, shards=shards), caption=source, members=members, cache=cache
    )
    return replace(tars, fields=tars.sample())
