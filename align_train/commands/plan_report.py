"""What a plan prints: the step, the memory under each strategy, and the run on many GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from align_train.commands.plan_data import DataFacts
from align_train.config.plan_schema import PlanSettings
from align_train.planning.hardware import GB
from align_train.planning.step import StepPlan, StepPlanner

# Pairs a second that one core reads, decodes and tokenises at 289 px (`benchmarks.loader`), and
# how it falls with the pixels of larger images.
LOADER_PAIRS = 820
_LOADER_SIDE = 289

_SECONDS_A_DAY = 86_400
_GIGA = 1e9


def print_plan(
    settings: PlanSettings,
    facts: DataFacts,
    planner: StepPlanner,
    chosen: StepPlan,
    engines: Mapping[str, StepPlan],
    rows: Sequence[StepPlan],
    notes: Sequence[str],
) -> None:
    """Prints a plan.

    Args:
        settings: The settings.
        facts: Of the data.
        planner: Has counted the step.
        chosen: The step as the settings ask for it.
        engines: The step under each strategy.
        rows: The step on many numbers of GPUs.
        notes: What was assumed.
    """
    lines = _lines(settings, facts, planner, chosen)
    for name, line in lines.items():
        print(f"{name:>13}  {line}")
    print()
    print(memory_table(engines, planner))
    print()
    print(many_table(rows, settings))
    print()
    for note in (*notes, *facts.notes):
        print(f"{'note':>13}  {note}")
    print(f"{'not counted':>13}  {NOT_COUNTED}")


NOT_COUNTED = (
    "CUDA's context, workspaces of cuDNN and cuBLAS, NCCL's buffers and gaps between "
    "tensors, for which a twelfth of the memory stays free; a teacher; evaluation",
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
    if facts.bytes_per_pair:
        network = node_pairs * facts.bytes_per_pair
        lines["network"] = f"{network / GB:.2f} GB/s a node from the storage of the shards"
    return lines


def _spell_cost(settings: PlanSettings, seconds: float, gpus: int | None = None) -> str:
    price = settings.price_per_gpu_hour
    if price is None:
        return ""
    return f", ${price * (gpus or settings.trainer.processes) * seconds / 3600:,.0f}"


def memory_table(engines: Mapping[str, StepPlan], planner: StepPlanner) -> str:
    """The memory of a GPU, part by part, under each strategy.

    Args:
        engines: The step under each strategy.
        planner: Has the hardware.
    """
    parts: list[str] = []
    for plan in engines.values():
        parts += [part for part in plan.memory.parts if part not in parts]
    names = [words.replace("strategy=", "").replace("strategy.", "") for words in engines]
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


def many_table(rows: Sequence[StepPlan], settings: PlanSettings) -> str:
    """The run on many numbers of GPUs.

    Args:
        rows: The step on each number.
        settings: Have the steps and the price.
    """
    lines = [
        f"{'GPUs':>6}  {'chunk':>12}  {'GB a GPU':>9}  {'s a step':>9}  {'pairs/s':>10}  "
        f"{'days':>8}  {'cost':>12}  bound by"
    ]
    for plan in rows:
        seconds = settings.steps * plan.seconds.total
        cost = _spell_cost(settings, seconds, plan.world).removeprefix(", ")
        chunk = f"{plan.chunks} x {plan.chunk_size}"
        lines.append(
            f"{plan.world:>6}  {chunk:>12}  {plan.memory.peak / GB:>9.1f}  "
            f"{plan.seconds.total:>9.3f}  {plan.pairs_per_second:>10,.0f}  "
            f"{seconds / _SECONDS_A_DAY:>8.2f}  {cost:>12}  "
            f"{plan.seconds.bound_by if plan.fits else 'does not fit'}"
        )
    return "\n".join(lines)
