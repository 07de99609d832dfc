"""Plan beside measured, one row a setup; and the parts of which both consist."""

from __future__ import annotations

from typing import Any

from align_train.planning.step import StepPlan
from benchmarks.plan.planned import plan_of
from benchmarks.plan.setups import Setup

MB = 1e6

# Names of `holdings.parts_of` -> our parts. ZeRO has copies of weights, and gradients of its own.
PARTS = {
    "parameters": "weights",
    "zero.single_partition_of_fp32_groups": "weights",
    "zero.fp32_partitioned_groups_flat": "weights",
    "gradients": "gradients",
    "zero.averaged_gradients": "gradients",
    "zero.grad_partitions_flat_buffer": "gradients",
    "optimizer": "optimizer",
    "ema": "average",
}


def compare(setups: list[Setup], measured: dict[str, Any]) -> None:
    """Prints the tables, and the worst of all ratios.

    Args:
        setups: In the order of the rows.
        measured: Rows of `measure`, by the setup's name; other setups are left out.
    """
    print(f"{'MB':<46} {'memory':>8} {'plan':>8} ratio  {'sent':>8} {'plan':>8} ratio  at: parts")
    ratios: list[float] = []
    of_sent: list[float] = []
    held: list[str] = []
    for setup in setups:
        row = measured.get(setup.name)
        if row is None:
            continue
        plan = plan_of(setup.overrides)
        ratios.append(plan.memory.peak / row["peak"])
        line = f"{setup.name:<46} {_pair(plan.memory.peak, row['peak'])}"
        if setup.ranks > 1:
            sent = plan.sent * setup.ranks
            of_sent.append(sent / row["bytes_per_step"])
            line += f"  {_pair(sent, row['bytes_per_step'])}"
        else:
            line += " " * 25
        print(f"{line}  {plan.memory.at}: {_parts(plan)}", flush=True)
        held.append(f"{setup.name:<46} {_held(plan, row)}")

    print("\nheld after the backward pass, in MB: measured/plan")
    print("\n".join(held))
    print(f"\n{len(ratios)} setups: memory {_range(ratios)}, bytes sent {_range(of_sent)}")


def _pair(planned: float, measured: float) -> str:
    return f"{measured / MB:8.1f} {planned / MB:8.1f} {planned / measured:5.3f}"


def _parts(plan: StepPlan) -> str:
    parts = plan.memory.parts.items()
    return ", ".join(f"{name} {size / MB:.0f}" for name, size in parts if size > MB / 2)


def _held(plan: StepPlan, row: dict[str, Any]) -> str:
    needs = plan.needs
    held = {
        "weights": needs.weights,
        "gradients": needs.gradients,
        "optimizer": needs.optimizer,
        "average": needs.ema,
    }
    found = dict.fromkeys(held, 0)
    for name, size in row["each"][0]["parts"]["after backward"].items():
        if name in PARTS:
            found[PARTS[name]] += size
    return "  ".join(
        f"{name} {found[name] / MB:.1f}/{size / MB:.1f}" for name, size in held.items()
    )


def _range(ratios: list[float]) -> str:
    if not ratios:
        return "not measured"
    return f"plan/measured {min(ratios):.3f} to {max(ratios):.3f}"
