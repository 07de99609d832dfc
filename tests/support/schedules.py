"""Schedules as conf/ describes them, without the price of a composition."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from align_train.config.components import build, without_runs_own
from align_train.config.schema import conf_dir
from align_train.optim.schedules import Schedule


def schedule(name: str, **options: Any) -> Schedule:
    """A schedule of conf/scheduler for batches of 128 pairs, with other options."""
    file: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "scheduler" / f"{name}.yaml"))
    node = file | {"batch_size": 128} | options
    built: Schedule = build(without_runs_own(node, "scheduler"))
    return built
