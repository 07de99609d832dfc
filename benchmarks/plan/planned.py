"""The plan of a measured setup: from its overrides, as a run's settings, with no data."""

from __future__ import annotations

from align_train.commands.plan_counts import model_without_memory, planner_of
from align_train.commands.planned import UNKNOWN
from align_train.config.components import build
from align_train.config.compose import compose_training
from align_train.planning.hardware import Hardware
from align_train.planning.step import StepPlan
from benchmarks.plan.data import TOKENS
from benchmarks.plan.setups import MAX_TOKENS, Setup


def plan_of(setup: Setup, hardware: Hardware = UNKNOWN) -> StepPlan:
    """Plans a setup.

    Args:
        setup: The setup.
        hardware: Of this machine; without it seconds mean nothing.
    """
    # Another choice of data would want its paths.
    without_data = [item for item in setup.overrides if not item.startswith("data")]
    settings = compose_training(*without_data)
    model = model_without_memory(settings, TOKENS)
    planner = planner_of(settings, model, hardware, tokens=MAX_TOKENS)
    plan = planner.step(build(settings.strategy), world=setup.ranks, nodes=1)
    assert plan is not None
    return plan
