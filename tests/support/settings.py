from __future__ import annotations

from typing import Any

from hydra import compose, initialize_config_dir

from tests.config.test_config import CONF


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides))
