"""What a plan leaves in a folder: plan.json with every figure, and plan.png."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from align_train.config.plan_schema import PlanSettings
from align_train.figures.plan_image import PlanRow, draw_plan
from align_train.files import write_whole
from align_train.planning.hardware import Hardware
from align_train.planning.step import StepPlan

_SECONDS_A_DAY = 86_400
_SECONDS_AN_HOUR = 3_600


def write_plan(
    folder: str,
    settings: PlanSettings,
    hardware: Hardware,
    engines: Mapping[str, StepPlan],
    rows: Sequence[StepPlan],
) -> str:
    """Writes both files.

    Args:
        folder: It is made if it is missing.
        settings: The settings.
        hardware: One GPU and its node.
        engines: The step under each strategy, by the settings that choose it.
        rows: The step on many numbers of GPUs.

    Returns:
        The line that says where they are.

    Raises:
        UserError: They cannot be written.
    """
    path = Path(folder).expanduser()
    fix = "set to=… to a folder that can be written"
    content = {
        "hardware": hardware.name,
        "batch_size": settings.batch_size,
        "steps": settings.steps,
        "gpus": [_figures(plan, settings) for plan in rows],
        "strategies": {words: _figures(plan, settings) for words, plan in engines.items()},
    }
    write_whole(path / "plan.json", json.dumps(content, indent=1) + "\n", fix=fix)

    memory = {short_name(words): plan.memory.parts for words, plan in engines.items()}
    draw_plan(
        [row_of(plan, settings) for plan in rows],
        memory,
        path / "plan.png",
        memory_of_gpu=hardware.memory,
        title=f"{settings.batch_size:,} pairs a step, {settings.steps:,} steps, {hardware.name}",
    )
    return f"{path}: plan.json, plan.png"


def row_of(plan: StepPlan, settings: PlanSettings) -> PlanRow:
    """The whole run on so many GPUs.

    Args:
        plan: Its step.
        settings: Have the steps and the price.
    """
    seconds = settings.steps * plan.seconds.total
    price = settings.price_per_gpu_hour
    return PlanRow(
        gpus=plan.world,
        seconds_a_step=plan.seconds.total,
        pairs_a_second=plan.pairs_per_second,
        days=seconds / _SECONDS_A_DAY,
        cost=None if price is None else price * plan.world * seconds / _SECONDS_AN_HOUR,
        bound_by=plan.seconds.bound_by,
        fits=plan.fits,
    )


def _figures(plan: StepPlan, settings: PlanSettings) -> dict[str, object]:
    row = row_of(plan, settings)
    return {
        "gpus": row.gpus,
        "chunk_size": plan.chunk_size,
        "recompute": plan.recompute,
        "seconds_a_step": row.seconds_a_step,
        "seconds": plan.seconds.parts,
        "pairs_a_second": row.pairs_a_second,
        "days": row.days,
        "cost": row.cost,
        "bound_by": row.bound_by,
        "bytes_sent": plan.sent,
        "memory": plan.memory.parts,
        "largest_moment": plan.memory.at,
        "fits": row.fits,
    }


def short_name(words: str) -> str:
    """`strategy=fsdp strategy.reshard=true` -> `fsdp reshard=true`."""
    return words.replace("strategy=", "").replace("strategy.", "")
