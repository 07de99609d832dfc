from __future__ import annotations

from align_train.config.compose import compose_training
from align_train.config.schema import TrainSettings, conf_dir

CONF = conf_dir()


def composed(*overrides: str) -> TrainSettings:
    """The settings of a run, typed and not checked."""
    return compose_training(*overrides)
