"""Loggers that a run writes to beside its own metrics.csv."""

from __future__ import annotations

from dataclasses import asdict

from lightning.pytorch.loggers import Logger, WandbLogger

from align_train.cluster import launcher
from align_train.config.components import build
from align_train.config.schema import TrainSettings
from align_train.errors import UserError, one_line
from align_train.run.folder import RunFolder


def run_loggers(settings: TrainSettings, folder: RunFolder) -> list[Logger]:
    """Builds the logger of `logger`, under the identity in the run's lineage.

    The identity makes a resumed run continue the same run in wandb.

    Args:
        settings: The run's settings.
        folder: The run's folder.

    Returns:
        The logger, or none with `logger=csv`: metrics.csv is written in any case.

    Raises:
        UserError: The logger cannot be built, or wandb cannot start.
    """
    if not settings.logger:
        return []

    lines = folder.lineage.read()
    identity = lines[0]["run"] if lines else None
    logger: Logger = build(
        settings.logger, save_dir=str(folder.path), name=settings.name, id=identity
    )
    if launcher.is_first_process() and isinstance(logger, WandbLogger):
        _start_wandb(logger, settings)
    return [logger]


def _start_wandb(logger: WandbLogger, settings: TrainSettings) -> None:
    import wandb  # takes a second, which only its users should pay

    try:
        # A resumed run may have other settings than wandb has of it.
        logger.experiment.config.update(asdict(settings), allow_val_change=True)
    except (wandb.Error, ValueError) as error:
        reason = one_line(error, 200)
        raise UserError(
            f"logger: wandb cannot start ({reason}); `wandb login`, or logger.offline=true"
        ) from None
