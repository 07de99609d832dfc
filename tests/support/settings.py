from __future__ import annotations

from typing import Any

from hydra import compose, initialize_config_dir

from align_train.config.schema import conf_dir

CONF = conf_dir()


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides))
