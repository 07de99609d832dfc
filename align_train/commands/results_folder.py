"""Where the results of an evaluation go: never into a model that somebody has published."""

from __future__ import annotations

from pathlib import Path

from align_train.config.command_schema import EvaluateSettings
from align_train.pretrained.pretrained import Pretrained


def results_folder(settings: EvaluateSettings, pretrained: Pretrained) -> Path:
    """Chooses the folder for results.json and the images beside it.

    Args:
        settings: Of the command. Its `to` comes first.
        pretrained: The model.

    Returns:
        `to`; or a run's own folder; or `outputs/NAME_evaluation`, as of a checkpoint that is named.
    """
    if settings.to is not None:
        return Path(settings.to).expanduser().absolute()
    if pretrained.run is not None and pretrained.checkpoint is None:
        return pretrained.path

    name = pretrained.name
    if not Path(settings.model).expanduser().exists():
        # Of the hub: the folder in its cache is named by a hash.
        name = settings.model.rpartition("/")[2]
    return Path("outputs", f"{name}_evaluation").absolute()
