"""What a plan prints: the step, the memory under each strategy, and the run on many GPUs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from align_train.commands.plan_data import DataFacts
from align_train.commands.plan_files import row_of, short_name
from align_train.commands.plan_scale import fetch_lines, rank_lines
from align_train.config.plan_schema import PlanSettings
from align_train.figures.plan_image import PlanRow
from align_train.planning.hardware import GB
from align_train.planning.step import MARGIN, StepPlan, StepPlanner
from align_train.training.operators import bytes_moved_by, flops_of

# Pairs a second that one core reads, decodes and tokenises at 289 px (`benchmarks.loader`), and
# how it falls with the pixels of larger images.
_LOADER_PAIRS = 820
_LOADER_SIDE = 289

MANY = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Numbers of GPUs that a plan compares, if the batch divides."""

_GIGA = 1e9

NOT_COUNTED = (
    "CUDA's context, workspaces of cuDNN and cuBLAS, NCCL's buffers and gaps between tensors, for "
    f"which {MARGIN:.0%} of the memory stays free; the memory of a teacher or an evaluation"
)
"""What no part of the memory holds."""


def print_plan(
    settings: PlanSettings,
    facts: DataFacts,
    planner: StepPlanner,
    chosen: StepPlan,
    engines: Mapping[str, StepPlan],
    many: Sequence[StepPlan],
    notes: Sequence[str],
) -> None:
    """Prints a plan.

    Args:
        settings: The settings.
        facts: Of the data.
        planner: Has counted the step.
        chosen: The step as the settings ask for it.
        engines: The step under each strategy, by the settings that choose it.
        many: The step on many numbers of GPUs.
        notes: What was assumed.
    """
    lines = _lines(settings, facts, planner, chosen)
    lines |= fetch_lines(settings, facts, chosen) | rank_lines(settings, planner, chosen)
    for name, line in lines.items():
        print(f"{name:>13}  {line}")
    print()
    print(memory_table(engines))
    print()
    rows = [row_of(plan, settings) for plan in many]
    print(many_table(many, rows))
    print()
    for note in (*notes, *facts.notes, *_left_out(rows)):
        print(f"{'note':>13}  {note}")
    print(f"{'not counted':>13}  {NOT_COUNTED}")


def _left_out(rows: Sequence[PlanRow]) -> list[str]:
    """Says which numbers of GPUs are not in the table."""
    planned = {row.gpus for row in rows}
    absent = [f"{gpus:,}" for gpus in MANY if gpus not in planned]
    if not absent:
        return []
    return [f"no row for {', '.join(absent)} GPUs: the batch does not divide evenly over them"]


def _lines(
    settings: PlanSettings, facts: DataFacts, planner: StepPlanner, chosen: StepPlan
) -> dict[str, str]:
    hardware, counted = planner.hardware, planner.counted
    trainer = settings.trainer
    chunk = counted.chunk
    flops = flops_of(chunk.operators) / chunk.pairs
    moved = bytes_moved_by(chunk.operators) / chunk.pairs

    row = row_of(chosen, settings)
    cost = "" if row.cost is None else f", ${row.cost:,.0f}"
    side = settings.model.get("image_size") or _LOADER_SIDE
    # Never faster than measured: small images have to be read and decoded, too.
    pairs_a_core = _LOADER_PAIRS * min(1.0, (_LOADER_SIDE / side) ** 2)
    cores = row.pairs_a_second / trainer.nodes / pairs_a_core
    data = f"{facts.pairs:,} pairs" if facts.pairs else "not known how many pairs"

    return {
        "hardware": f"{trainer.nodes} x {trainer.devices} {hardware.name}",
        "global batch": f"{settings.batch_size:,} pairs; {chosen.chunks} chunks of "
        f"{chosen.chunk_size} a GPU, recompute={str(chosen.recompute).lower()}, "
        f"{chosen.strategy}, {settings.precision}",
        "model": f"{counted.model.parameters / 1e6:.1f} M parameters",
        "a pair": f"{flops / _GIGA:.1f} GFLOP and {moved / GB:.2f} GB moved, "
        f"forward and backward, {facts.tokens} tokens a text",
        "memory": f"{chosen.memory.peak / GB:.1f} of {hardware.memory_gb:g} GB a GPU, "
        f"{chosen.memory.largest}",
        "messages": f"{chosen.sent / GB:.2f} GB a GPU and step",
        "step": f"{row.seconds_a_step:.3f} s, {row.pairs_a_second:,.0f} pairs/s; bound by "
        f"{row.bound_by}",
        "loader": f"{cores:.0f} cores a node of its {hardware.cpu_cores}",
        "run": f"{settings.steps:,} steps, {row.days:.2f} days{cost}",
        "data": f"{data}, {facts.vocabulary:,} words in the vocabulary",
    }


def memory_table(engines: Mapping[str, StepPlan]) -> str:
    """The memory of a GPU, part by part, under each strategy.

    Args:
        engines: The step under each strategy, by the settings that choose it.
    """
    parts: list[str] = []
    for plan in engines.values():
        # A part that one strategy alone has is a row all the same.
        parts += [part for part in plan.memory.parts if part not in parts]
    width = max(map(len, [*parts, "largest moment"]))

    def row(title: str, cells: Iterable[str]) -> str:
        return f"{title:<{width}}" + "".join(f"  {cell:>18}" for cell in cells)

    plans = list(engines.values())
    lines = [row("GB a GPU", map(short_name, engines))]
    for part in parts:
        lines.append(row(part, [f"{plan.memory.parts.get(part, 0) / GB:.2f}" for plan in plans]))

    peaks = [f"{plan.memory.peak / GB:.2f}{'' if plan.fits else ' too much'}" for plan in plans]
    chunks = [f"{plan.chunk_size}{' recomputed' if plan.recompute else ''}" for plan in plans]
    lines.append(row("peak", peaks))
    lines.append(row("largest moment", [plan.memory.at for plan in plans]))
    lines.append(row("chunk", chunks))
    return "\n".join(lines)


def many_table(plans: Sequence[StepPlan], rows: Sequence[PlanRow]) -> str:
    """The run on many numbers of GPUs as a table.

    Args:
        plans: The step on each number.
        rows: What it makes of the run.
    """
    lines = [
        f"{'GPUs':>6}  {'chunk':>12}  {'GB a GPU':>9}  {'s a step':>9}  {'pairs/s':>10}  "
        f"{'days':>8}  {'cost':>12}  bound by"
    ]
    for plan, row in zip(plans, rows, strict=True):
        chunk = f"{plan.chunks} x {plan.chunk_size}"
        cost = "" if row.cost is None else f"${row.cost:,.0f}"
        lines.append(
            f"{row.gpus:>6}  {chunk:>12}  {plan.memory.peak / GB:>9.1f}  "
            f"{row.seconds_a_step:>9.3f}  {row.pairs_a_second:>10,.0f}  {row.days:>8.2f}  "
            f"{cost:>12}  {row.bound_by if row.fits else 'does not fit'}"
        )
    return "\n".join(lines)
