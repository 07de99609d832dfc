"""Where a run is written down beside its own folder."""

from __future__ import annotations

from typing import Any

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import OmegaConf

from align_train.cluster import launcher
from align_train.config.components import build
from align_train.errors import UserError
from align_train.run.folder import RunFolder


def run_loggers(config: Any, folder: RunFolder) -> list[Logger]:
    """metrics.csv is always written; `logger=wandb` adds the run to wandb, under the identity in its lineage."""
    if not config.logger:  # logger=csv
        return []
    identity = folder.lineage.read()[0]["run"] if folder.lineage.read() else None
    try:
        logger: Logger = build(
            config.logger, save_dir=str(folder.path), name=config.name, id=identity
        )
        if launcher.is_first_process() and isinstance(logger, WandbLogger):
            logger.experiment.config.update(
                OmegaConf.to_container(config, resolve=True), allow_val_change=True
            )
    except (wandb.Error, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"logger: wandb cannot start ({reason}); `wandb login`, or logger.offline=true"
        ) from None
    return [logger]
