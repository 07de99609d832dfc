"""What a plan prints: the step, the memory under each strategy, and the run on many GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from align_train.commands.plan_data import DataFacts
from align_train.commands.plan_files import row_of, short_name
from align_train.commands.plan_scale import fetch_lines, rank_lines
from align_train.config.plan_schema import PlanSettings
from align_train.figures.plan_image import PlanRow
from align_train.planning.hardware import GB
from align_train.planning.step import StepPlan, StepPlanner

# Pairs a second that one core reads, decodes and tokenises at 289 px (`benchmarks.loader`), and
# how it falls with the pixels of larger images.
LOADER_PAIRS = 820
_LOADER_SIDE = 289

MANY = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Numbers of GPUs that a plan compares, if the batch divides."""

_SECONDS_A_DAY = 86_400
_SECONDS_AN_HOUR = 3_600
_GIGA = 1e9


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
        engines: The step under each strategy.
        many: The step on many numbers of GPUs.
        notes: What was assumed.
    """
    lines = _lines(settings, facts, planner, chosen)
    lines |= fetch_lines(settings, facts, chosen) | rank_lines(settings, planner, chosen)
    for name, line in lines.items():
        print(f"{name:>13}  {line}")
    print()
    print(memory_table(engines, planner))
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
    return [
        f"no row for {', '.join(absent)} GPUs: the batch does not divide into norm groups there"
    ]


NOT_COUNTED = (
    "CUDA's context, workspaces of cuDNN and cuBLAS, NCCL's buffers and gaps between tensors, for "
    "which a twelfth of the memory stays free; a teacher; evaluation"
)
"""What no part of the memory holds."""


def _lines(
    settings: PlanSettings, facts: DataFacts, planner: StepPlanner, chosen: StepPlan
) -> dict[str, str]:
    hardware, counted = planner.hardware, planner.counted
    trainer = settings.trainer
    chunk = counted.chunk
    flops = sum(item.flops * times for item, times in chunk.forward_operators.items())
    flops += sum(item.flops * times for item, times in chunk.backward_operators.items())
    moved = sum(item.read_and_written * times for item, times in chunk.forward_operators.items())
    moved += sum(item.read_and_written * times for item, times in chunk.backward_operators.items())
    pairs = chosen.pairs_per_second
    node_pairs = pairs / trainer.nodes
    seconds = settings.steps * chosen.seconds.total
    side = settings.model.get("image_size") or _LOADER_SIDE
    cores = node_pairs / (LOADER_PAIRS * min(1.0, (_LOADER_SIDE / side) ** 2))

    lines = {
        "hardware": f"{trainer.nodes} x {trainer.devices} {hardware.name}",
        "global batch": f"{settings.batch_size:,} pairs; {chosen.chunks} chunks of "
        f"{chosen.chunk_size} a GPU, recompute={str(chosen.recompute).lower()}, "
        f"{chosen.strategy}, {settings.precision}",
        "model": f"{counted.model.parameters / 1e6:.1f} M parameters",
        "a pair": f"{flops / chunk.pairs / _GIGA:.1f} GFLOP and {moved / chunk.pairs / _GIGA:.2f} "
        f"GB moved, forward and backward, {facts.tokens} tokens a text",
        "memory": f"{chosen.memory.peak / GB:.1f} of {hardware.memory_gb:g} GB a GPU, "
        f"{chosen.memory.largest}",
        "messages": f"{chosen.sent / GB:.2f} GB a GPU and step",
        "step": f"{chosen.seconds.total:.3f} s, {pairs:,.0f} pairs/s; bound by "
        f"{chosen.seconds.bound_by}",
        "loader": f"{cores:.0f} cores a node of its {hardware.cpu_cores}",
        "run": f"{settings.steps:,} steps, {seconds / _SECONDS_A_DAY:.2f} days"
        + _spell_cost(settings, seconds),
    }
    data = f"{facts.pairs:,} pairs" if facts.pairs else "not known how many pairs"
    lines["data"] = f"{data}, {facts.vocabulary:,} words in the vocabulary"
    return lines


def _spell_cost(settings: PlanSettings, seconds: float) -> str:
    price = settings.price_per_gpu_hour
    if price is None:
        return ""
    return f", ${price * settings.trainer.processes * seconds / _SECONDS_AN_HOUR:,.0f}"


def memory_table(engines: Mapping[str, StepPlan], planner: StepPlanner) -> str:
    """The memory of a GPU, part by part, under each strategy.

    Args:
        engines: The step under each strategy.
        planner: Has the hardware.
    """
    parts: list[str] = []
    for plan in engines.values():
        parts += [part for part in plan.memory.parts if part not in parts]
    names = [short_name(words) for words in engines]
    width = max(map(len, [*parts, "largest moment"]))
    lines = [f"{'GB a GPU':<{width}}" + "".join(f"  {name:>18}" for name in names)]
    for part in parts:
        cells = [f"{plan.memory.parts.get(part, 0) / GB:.2f}" for plan in engines.values()]
        lines.append(f"{part:<{width}}" + "".join(f"  {cell:>18}" for cell in cells))
    peaks = [
        f"{plan.memory.peak / GB:.2f}{'' if plan.fits else ' too much'}"
        for plan in engines.values()
    ]
    lines.append(f"{'peak':<{width}}" + "".join(f"  {cell:>18}" for cell in peaks))
    lines.append(
        f"{'largest moment':<{width}}"
        + "".join(f"  {plan.memory.at:>18}" for plan in engines.values())
    )
    chunks = [f"{plan.chunk_size}{' again' if plan.recompute else ''}" for plan in engines.values()]
    lines.append(f"{'chunk':<{width}}" + "".join(f"  {cell:>18}" for cell in chunks))
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
