"""`python -m data.manifest shards=FOLDER`: the manifest of WebDataset shards that exist.

Folders that img2dataset filled are counted by the statistics and tables beside their tars (`data/img2dataset.py`), which stay
shut; the tars of others are indexed, which reads their headers.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from align_train.config.compose import command
from align_train.config.schema import MISSING
from align_train.errors import UserError
from data.tables.rows import places

if TYPE_CHECKING:
    from align_train.shards.cache import ShardCache
    from align_train.shards.manifest import Manifest


@dataclass
class ManifestConfig:
    """`conf/commands/make_manifest.yaml` says what each key is for."""

    shards: Any = MISSING
    to: str | None = None
    caption: str = "txt"
    storage_options: Any = None


ConfigStore.instance().store(name="make_manifest_schema", node=ManifestConfig)


def run(config: DictConfig) -> None:
    from align_train.shards.cache import ShardCache
    from align_train.shards.caption import CaptionSource
    from align_train.shards.manifest import MANIFEST_NAME
    from align_train.shards.resolve import resolve

    shards = places(config.shards, "shards")
    folder = shards[0] if len(shards) == 1 and Path(shards[0]).expanduser().is_dir() else None
    if config.to is None and folder is None:
        raise UserError(
            f"shards={config.shards} is no folder: give to=…, the path of the manifest to write"
        )
    to = Path(config.to or f"{folder}/{MANIFEST_NAME}").expanduser()
    stage = ShardCache(storage_options=dict(config.storage_options or {}))
    manifest = _of_download(shards, stage) or resolve(
        # A folder's own manifest is what is made here, not what is read.
        f"{glob.escape(folder)}/*.tar" if folder else shards,
        caption=CaptionSource.parse(config.caption),
        stage=stage,
        key="shards",
    )
    if to.is_dir():
        raise UserError(
            f"to={to}: is a folder; give the path of the manifest to write, e.g. {to / MANIFEST_NAME}"
        )
    to.parent.mkdir(parents=True, exist_ok=True)
    manifest.write(to)
    print(
        f"{to}: {manifest.pairs:,} pairs in {len(manifest.shards):,} shards, identity {manifest.identity}"
    )


def _of_download(folders: list[str], stage: ShardCache) -> Manifest | None:
    """None unless these are folders, or URLs of folders, that img2dataset filled."""
    from align_train.shards.manifest import Manifest
    from align_train.shards.remote import is_url

    if any(
        glob.has_magic(place) or not (is_url(place) or Path(place).expanduser().is_dir())
        for place in folders
    ):
        return None
    if any(place.endswith((".tar", ".jsonl")) or "{" in place for place in folders):
        return None
    try:
        from data.tables.img2dataset import finished_shards
    except ImportError:  # without pyarrow tars are indexed
        return None
    found = finished_shards(folders, stage)
    if found is not None and not found:
        raise UserError(
            f"shards={', '.join(folders)}: no finished shard with a pair there; is the download still running?"
        )
    return Manifest(tuple(found), ", ".join(folders)) if found else None


if __name__ == "__main__":
    command(run, config_name="make_manifest")
