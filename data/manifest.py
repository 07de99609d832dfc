"""`python -m data.manifest shards=FOLDER`: indexes and counts existing WebDataset shards, and writes their manifest."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from align_train.config import MISSING, command
from align_train.errors import UserError


@dataclass
class ManifestConfig:
    """`conf/commands/make_manifest.yaml` says what each key is for."""

    shards: Any = MISSING
    to: str | None = None
    caption: str = "txt"
    storage_options: Any = None


ConfigStore.instance().store(name="make_manifest_schema", node=ManifestConfig)


def run(config: DictConfig) -> None:
    from align_train.stream.manifest import MANIFEST_NAME, resolve
    from align_train.stream.shard import CaptionSource
    from align_train.stream.stage import Stage

    shards = OmegaConf.to_container(config)["shards"]  # type: ignore[index, call-overload]
    folder = isinstance(shards, str) and Path(shards).expanduser().is_dir()
    if config.to is None and not folder:
        raise UserError(f"shards={shards} is no folder: give to=…, the path of the manifest to write")
    to = Path(config.to or Path(shards) / MANIFEST_NAME).expanduser()
    # A folder's own manifest is what is made here, not what is read.
    manifest = resolve(
        f"{glob.escape(shards)}/*.tar" if folder else shards,
        caption=CaptionSource.parse(config.caption),
        stage=Stage(storage_options=dict(config.storage_options or {})),
        key="shards",
    )
    if to.is_dir():
        raise UserError(f"to={to}: is a folder; give the path of the manifest to write, e.g. {to / MANIFEST_NAME}")
    to.parent.mkdir(parents=True, exist_ok=True)
    manifest.write(to)
    print(f"{to}: {manifest.pairs:,} pairs in {len(manifest.shards):,} shards, identity {manifest.identity}")


if __name__ == "__main__":
    command(run, config_name="make_manifest")
