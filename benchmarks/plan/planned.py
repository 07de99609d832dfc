"""The plan of a measured run: from its settings, with no data."""

from __future__ import annotations

from collections.abc import Sequence

from align_train.commands.plan_counts import model_without_memory, planner_of
from align_train.commands.planned import UNKNOWN
from align_train.config.components import build
from align_train.config.compose import compose_training
from align_train.planning.hardware import Hardware
from align_train.planning.step import StepPlan
from benchmarks.plan.data import TOKENS
from benchmarks.plan.setups import MAX_TOKENS


def plan_of(words: Sequence[str], hardware: Hardware = UNKNOWN) -> StepPlan:
    """Plans a run of this machine.

    Args:
        words: Its settings, as on the command line. Those of the data are left out: another choice
            of data would want its paths.
        hardware: Of this machine; without it seconds mean nothing.
    """
    settings = compose_training(*[word for word in words if not word.startswith("data")])
    model = model_without_memory(settings, TOKENS)
    planner = planner_of(settings, model, hardware, tokens=MAX_TOKENS)
    plan = planner.step(build(settings.strategy), world=settings.trainer.processes, nodes=1)
    assert plan is not None
    return plan
