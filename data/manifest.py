"""`python -m data.manifest shards=FOLDER`: the manifest of WebDataset shards that exist.

In a folder that img2dataset filled, the statistics and tables beside the tars give the counts
(`data/tables/img2dataset.py`). Other tars are indexed, which reads their headers. A sample of the
pairs is read for the report of what the shards hold; not of a download at a URL, where no tar is
fetched.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align_train.cluster.interruption import leave
from align_train.config.command import command
from align_train.config.field_marks import TEXTS, Paths
from align_train.errors import UserError, printable, shown
from align_train.files import check_writable

from .tables.contents import contents_of, held, settings_of, side_of
from .tables.paths import paths_of

if TYPE_CHECKING:
    from align_train.shards.cache import ShardCache
    from align_train.shards.caption import CaptionSource
    from align_train.shards.manifest import Manifest
    from align_train.shards.members import Members


@dataclass
class ManifestSettings:
    """`conf/commands/make_manifest.yaml` explains each key and has the defaults."""

    shards: Paths = field(metadata=TEXTS)
    to: str | None
    caption: Any = field(metadata=TEXTS)  # a text, a list of texts, or None
    image: str | None
    keys: str | None
    storage_options: Any  # a mapping or None


@dataclass(frozen=True)
class _Counted:
    """The shards with their counts.

    Attributes:
        manifest: The manifest.
        can_look: Whether the report may read tars: of a download at a URL none is fetched.
    """

    manifest: Manifest
    can_look: bool


def run(settings: ManifestSettings) -> None:
    """Writes the manifest, and reports what the shards hold."""
    # Imported here, so that `--help` does not wait for them.
    from align_train.shards.cache import ShardCache
    from align_train.shards.left_out import counted
    from align_train.shards.members import Members

    shards = paths_of(settings.shards, "shards")
    folder = _only_folder(shards)
    to = _target(settings, shards, folder)
    leave("no manifest is written, and the same command begins anew")

    cache = ShardCache(storage_options=dict(settings.storage_options or {}))
    members = Members.parse(settings.image, settings.keys, prefix="")
    given = _caption_of(settings.caption)
    found = _count(shards, folder, given, members, cache)
    manifest = _with_settings(found.manifest, members)

    to.parent.mkdir(parents=True, exist_ok=True)
    manifest.write(to)
    leave(f"{to} is complete, without a report")
    print(
        f"{to}: {counted(manifest.pairs, 'pair')} in {counted(len(manifest.shards), 'shard')}, "
        f"identity {manifest.identity}"
    )
    if found.can_look:
        _report(manifest, to, given, members, cache)
    else:
        # Nothing was looked into: the run finds out the captions; the images' size is unknown.
        _say_next(manifest, to, side=0, data=settings_of(None, members))


def _target(settings: ManifestSettings, shards: list[str], folder: str | None) -> Path:
    """The path of the manifest to write; UserError if there is none, or it cannot be written."""
    from align_train.shards.manifest import MANIFEST_NAME
    from align_train.shards.resolve import refuse_absent

    if settings.to is None and folder is None:
        # A misspelt folder is no folder either: that is said first.
        refuse_absent(shards, key="shards")
        raise UserError(
            f"shards={settings.shards} is no folder: give to=…, the path of the manifest to write"
        )
    to = Path(settings.to or f"{folder}/{MANIFEST_NAME}").expanduser()
    if to.is_dir():
        raise UserError(
            f"to={to}: is a folder; give the path of the manifest to write, e.g. "
            f"{to / MANIFEST_NAME}"
        )
    check_writable(to, "give to=…, a manifest in a folder that you can write")
    return to


def _count(
    shards: list[str],
    folder: str | None,
    given: str | list[str] | None,
    members: Members,
    cache: ShardCache,
) -> _Counted:
    """Counts the pairs: by the tables of a download, or else by the tars' headers.

    Args:
        shards: The setting.
        folder: The local folder, if they are one.
        given: The setting `caption`; None: it is found out.
        members: How members of the tars make pairs.
        cache: Fetches remote shards.
    """
    from align_train.shards.caption import CaptionSource
    from align_train.shards.remote import is_url
    from align_train.shards.resolve import resolve

    is_remote = any(map(is_url, shards))
    if is_remote:
        # Nobody knows where texts lie, and to find out would fetch a tar: the tables suffice.
        anywhere = CaptionSource.parse("txt" if given is None else given, key="caption")
        download = _of_download(shards, cache, anywhere)
        if download is not None:
            return _Counted(download, can_look=False)

    # This command replaces a folder's present manifest, so that it does not read it.
    tars = folder or shards
    anew = folder is not None
    caption = _found_caption(tars, members, cache, anew=anew) if given is None else given
    source = CaptionSource.parse(caption, key="caption")

    manifest = None if is_remote else _of_download(shards, cache, source)
    if manifest is None:
        manifest = resolve(
            tars, caption=source, members=members, cache=cache, anew=anew, key="shards"
        )
    return _Counted(manifest, can_look=True)


def _with_settings(manifest: Manifest, members: Members) -> Manifest:
    """The manifest with the settings of members in each row."""
    # Other settings make other pairs: whoever reads the shards must give these.
    rows = [replace(row, image=members.image, keys=members.keys) for row in manifest.shards]
    return replace(manifest, shards=tuple(rows))


def _report(
    manifest: Manifest,
    to: Path,
    given: str | list[str] | None,
    members: Members,
    cache: ShardCache,
) -> None:
    """Prints what the shards hold, and the command that trains on them."""
    from align_train.shards.caption import CaptionSource

    # Found out from the manifest, as a run does: it leaves out shards that the count looked at.
    caption = _found_caption(str(to), members, cache) if given is None else given
    source = CaptionSource.parse(caption, key="caption")
    print("\n".join(contents_of(manifest, source, members, cache)))
    side = side_of(manifest, source, members, cache)
    _say_next(manifest, to, side=side, data=settings_of(source, members))


def _say_next(manifest: Manifest, to: Path, *, side: int, data: list[str]) -> None:
    """Prints the command that trains. side: as of `next_command`; data: settings of the data."""
    from .packing.next_command import next_command

    if manifest.pairs == 1:
        print("one pair is too few to train on", flush=True)
        return
    command = next_command(to, pairs=manifest.pairs, side=side, data=data)
    print(f"next: {printable(command)}", flush=True)


def _found_caption(
    shards: str | list[str], members: Members, cache: ShardCache, *, anew: bool = False
) -> str | list[str]:
    """Finds out where texts lie; if nobody can tell, prints what the shards hold, and refuses."""
    from align_train.shards.found_caption import NoCaption, found_caption

    try:
        return found_caption(shards, members=members, cache=cache, anew=anew, key="shards")
    except NoCaption as error:
        print("\n".join(held(error.pairs, error.url)), flush=True)
        raise


def _only_folder(shards: list[str]) -> str | None:
    """The local folder, if the setting names one and nothing else."""
    if len(shards) == 1 and Path(shards[0]).expanduser().is_dir():
        return shards[0]
    return None


def _caption_of(setting: object) -> str | list[str] | None:
    """Reads the setting `caption`; UserError if it is no text, no list of texts and not null."""
    if setting is None or isinstance(setting, str):
        return setting
    items = setting if isinstance(setting, list | tuple) else []
    texts = [item for item in items if isinstance(item, str)]
    if not texts or len(texts) < len(items):
        raise UserError(
            f"caption={shown(setting)}: expected a member such as txt, json:FIELD, a list of "
            f"these, or null"
        )
    return texts


def _of_download(folders: list[str], cache: ShardCache, caption: CaptionSource) -> Manifest | None:
    """The manifest of folders that img2dataset filled; None if it did not, or these are none."""
    from align_train.shards.manifest import Manifest

    if not all(map(_may_be_folder, folders)):
        return None

    try:
        from .tables.img2dataset import finished_shards
    except ImportError:
        return None  # without pyarrow the tars are indexed

    shards = finished_shards(folders, cache, caption)
    if shards is None:
        return None
    if not shards:
        raise UserError(
            f"shards={', '.join(folders)}: no finished shard with a pair there; is the download "
            f"still running?"
        )
    return Manifest(tuple(shards), ", ".join(folders))


def _may_be_folder(path: str) -> bool:
    from align_train.shards.remote import is_url

    # A folder that exists is no pattern, even with a bracket in its name.
    if Path(path).expanduser().is_dir():
        return True
    if glob.has_magic(path) or "{" in path or path.endswith((".tar", ".jsonl")):
        return False
    return is_url(path)


if __name__ == "__main__":
    command(run, config_name="make_manifest", schema=ManifestSettings)
