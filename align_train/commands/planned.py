"""The plan of a run that begins, and how far off it was when the run has ended.

Price: a second for `model=tiny`, 5 seconds for B7 with BERT base, on rank 0 alone, so a run of a
few steps is not planned.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from align_train.commands.plan_counts import planner_of
from align_train.commands.plan_hardware import hardware_of_file, hardware_of_name, measured_file
from align_train.config.components import build
from align_train.config.schema import TrainSettings
from align_train.errors import UserError
from align_train.model import TrainableModel
from align_train.planning.aside import aside
from align_train.planning.hardware import GB, Efficiency, Hardware
from align_train.planning.step import StepPlan
from align_train.run.folder import RunFolder
from align_train.strategy import StrategyRecipe

_FEW = 100  # steps of a run that is too short to be planned

UNKNOWN = Hardware(
    name="this machine's CPU",
    is_gpu=False,
    # More than any machine has: no chunk is refused for its memory.
    memory_gb=1e6,
    bf16_tflops=1,
    fp32_tflops=1,
    memory_gbs=1,
    node_link_gbs=1,
    network_gbs=1,
    gpus_per_node=1,
    cpu_cores=1,
    launch_us=0,
    efficiency=Efficiency(
        matmul=1,
        convolution=1,
        pointwise=1,
        depthwise=1,
        attention=1,
        elementwise=1,
        normalisation=1,
        link=1,
    ),
)
"""A CPU of which no rate is known: memory and messages can be planned for it, but no seconds."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a run's plan says.

    Attributes:
        step: The step.
        beside: Bytes that a process holds beside the plan's: on CPUs its libraries; on GPUs 0.
        has_rates: Whether the hardware's rates are known.
    """

    step: StepPlan
    beside: int
    has_rates: bool

    @property
    def memory(self) -> float:
        """GB of a process, measured as metrics.csv has it."""
        return (self.step.memory.peak + self.beside) / GB

    def __str__(self) -> str:
        """The plan in one line."""
        line = f"{self.memory:.2f} GB a process, {self.step.memory.largest}"
        if self.beside:
            line += f", {self.beside / GB:.2f} GB libraries"
        if not self.has_rates:
            return f"{line}; align-train plan measure=true makes its seconds known"
        pairs = self.step.pairs_per_second
        return f"{line}; {self.step.seconds.total:.3g} s a step, {pairs:,.0f} pairs/s"

    def beside_run(self, folder: RunFolder) -> str:
        """How far off the plan was; empty if the run has no rows.

        Args:
            folder: The run's.
        """
        rows = folder.read_metrics()
        memory = max(_numbers(rows, "memory_gb"), default=math.nan)
        # The median, because single rows are slow for reasons that no plan knows.
        seconds = median(_numbers(rows, "step_seconds") or [math.nan])
        parts: list[str] = []
        if math.isfinite(memory):
            parts.append(f"{self.memory:.2f} GB a process, {_off(self.memory, memory)}")
        if math.isfinite(seconds) and self.has_rates:
            planned = self.step.seconds.total
            parts.append(f"{planned:.3g} s a step, {_off(planned, seconds)}")
        return f"planned {'; '.join(parts)}" if parts else ""


def spell_plan(planned: Planned | Unplanned | None) -> dict[str, str]:
    """The line of a run's summary, by its title.

    Args:
        planned: The plan; None: the run has none, and the line is empty.
    """
    return {"plan": "" if planned is None else str(planned)}


def off_plan(planned: Planned | Unplanned | None, folder: RunFolder) -> str:
    """How far off a plan was; empty if there was none, or the run has measured nothing.

    Args:
        planned: The plan, if the run has one.
        folder: The run's folder.
    """
    return "" if planned is None else planned.beside_run(folder)


@dataclass(frozen=True, kw_only=True)
class Unplanned:
    """Why a run has no plan.

    Attributes:
        reason: In one line.
    """

    reason: str

    def __str__(self) -> str:
        """The line."""
        return f"none: {self.reason}"

    def beside_run(self, folder: RunFolder) -> str:
        """Nothing."""
        return ""


def planned_run(
    settings: TrainSettings, model: TrainableModel, *, tokens: int
) -> Planned | Unplanned | None:
    """Plans a run that is about to begin.

    Args:
        settings: The run's settings.
        model: The run's model, before it is laid out.
        tokens: Tokens of the longest texts.

    Returns:
        The plan, or why there is none: a run goes on without it. None for a run of few steps.
    """
    # A dry run is made to be read, so the plan is worth its seconds there.
    if settings.steps < _FEW and not settings.dry_run:
        return None
    try:
        with aside("plan"):
            return _planned(settings, model, tokens=tokens)
    except UserError as error:
        return Unplanned(reason=str(error))


def _planned(settings: TrainSettings, model: TrainableModel, *, tokens: int) -> Planned | Unplanned:
    hardware = _hardware(settings)
    planner = planner_of(settings, model, hardware or UNKNOWN, tokens=tokens)
    strategy: StrategyRecipe = build(settings.strategy)
    trainer = settings.trainer
    step = planner.step(strategy, world=trainer.processes, nodes=trainer.nodes)
    if step is None:
        return Unplanned(reason="the strategy does not say what a rank needs, by a method needs")

    beside = 0
    if not trainer.on_gpu:
        # The model is built: its weights are in both.
        beside = _resident() - planner.counted.model.weights
    return Planned(step=step, beside=max(beside, 0), has_rates=hardware is not None)


def _hardware(settings: TrainSettings) -> Hardware | None:
    """What this machine computes on, as measured here or by the data sheet; None: not known."""
    on_gpu = settings.trainer.on_gpu
    file = measured_file(on_gpu=on_gpu, bf16=settings.precision == "bf16")
    if file.is_file():
        return hardware_of_file(file)
    if on_gpu and torch.cuda.is_available():
        return hardware_of_name(torch.cuda.get_device_name())
    return None


def _resident() -> int:
    """Bytes of this process in memory."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _numbers(rows: list[dict[str, str]], column: str) -> list[float]:
    # The first row has the start in it. The file is the user's too.
    numbers: list[float] = []
    for row in rows[1:]:
        with suppress(ValueError):
            numbers.append(float(row.get(column) or 0))
    return [number for number in numbers if 0 < number < math.inf]


def _off(planned: float, measured: float) -> str:
    more = planned / measured - 1
    return (
        f"measured {measured:.3g}: the plan is {abs(more):.0%} too {'high' if more > 0 else 'low'}"
    )
