"""Seconds of a step by the roofline.

An operator takes the time of its FLOPs, or of the bytes that it moves, whichever is longer. Each
kind of operator reaches a share of the peak or of the bandwidth. A GPU runs while the CPU launches
the next operators, so a pass takes the longer of both. A CPU does one after the other.

Messages of gradients go out during the backward pass of the last chunk, and gathered weights arrive
ahead of their blocks: only what takes longer than these passes is waited for.

The shares are stated (`conf/plan.yaml`) or measured on the machine at hand (`measure.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from align_train.planning.hardware import Hardware
from align_train.training.operators import (
    ATTENTION,
    COMPUTING,
    CONVOLUTION,
    DEPTHWISE,
    ELEMENTWISE,
    MATMUL,
    NORMALISATION,
    POINTWISE,
    Operators,
)

LAUNCHES = "launches"
MESSAGES = "messages"
OPTIMIZER = "optimizer"
LOSS = "loss"

# Compiled blocks move this share of the bytes of eager ones. BatchNorm and SiLU together take 8
# passes over memory, forward and backward, in place of 13.
COMPILED_SHARE = 8 / 13

EFFICIENCY_OF = {
    MATMUL: "matmul",
    CONVOLUTION: "convolution",
    POINTWISE: "pointwise",
    DEPTHWISE: "depthwise",
    ATTENTION: "attention",
    ELEMENTWISE: "elementwise",
    NORMALISATION: "normalisation",
}
"""Kinds of operators -> their fields of `Efficiency`."""

_MICRO = 1e-6


@dataclass(frozen=True, kw_only=True)
class Work:
    """Seconds of some operators.

    Attributes:
        by_kind: Seconds on the device of each kind of operator.
        launching: Seconds in which the CPU launches them.
        overlaps: Whether the device computes meanwhile.
    """

    by_kind: dict[str, float]
    launching: float
    overlaps: bool

    @property
    def total(self) -> float:
        """Seconds until all of them are done."""
        computing = sum(self.by_kind.values())
        if self.overlaps:
            return max(computing, self.launching)
        return computing + self.launching

    def times(self, factor: float) -> Work:
        """A share of the work on the device; it is launched as a whole."""
        by_kind = {kind: seconds * factor for kind, seconds in self.by_kind.items()}
        return Work(by_kind=by_kind, launching=self.launching, overlaps=self.overlaps)


def work_of(
    operators: Operators, hardware: Hardware, *, bf16: bool, compiled: bool = False
) -> Work:
    """Finds the seconds of some operators.

    Args:
        operators: How often each kind and size of operator runs.
        hardware: What they run on.
        bf16: Whether products are in bf16.
        compiled: Whether what lies between products is fused.
    """
    peak = hardware.peak_flops(bf16=bf16)

    by_kind: dict[str, float] = {}
    for (kind, flops, moved), times in operators.items():
        share: float = getattr(hardware.efficiency, EFFICIENCY_OF[kind])
        if kind in COMPUTING:
            # A product's reads and writes have no share of their own: that of element-wise work
            # serves.
            moving = moved / (hardware.bandwidth * hardware.efficiency.elementwise)
            seconds = max(moving, flops / (peak * share))
        else:
            fused = COMPILED_SHARE if compiled else 1.0
            seconds = moved * fused / (hardware.bandwidth * share)
        by_kind[kind] = by_kind.get(kind, 0.0) + seconds * times

    launching = operators.total() * hardware.launch_us * _MICRO
    return Work(by_kind=by_kind, launching=launching, overlaps=hardware.is_gpu)


@dataclass(frozen=True, kw_only=True)
class StepSeconds:
    """The seconds of a step, part by part.

    Attributes:
        parts: By name; they add up to the step.
    """

    parts: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return sum(self.parts.values())

    @property
    def bound_by(self) -> str:
        """The part that takes longest."""
        return max(self.parts, key=lambda name: self.parts[name])


def step_seconds(
    *,
    forward: Work,
    backward: Work,
    chunks: int,
    loss: Work,
    optimizer: Work,
    gradients: float,
    gathers: float,
    exposed: float,
) -> StepSeconds:
    """Adds up a step.

    Args:
        forward: Of one chunk.
        backward: Of one chunk.
        chunks: Chunks of a rank.
        loss: Of the loss, forward and backward.
        optimizer: Of the optimizer's step on this rank.
        gradients: Seconds of the gradients' messages.
        gathers: Seconds in which weights are gathered.
        exposed: Seconds of messages that nothing hides: the loss's, and the statistics'.
    """
    parts: dict[str, float] = {}
    for work in (forward, backward):
        for kind, seconds in work.by_kind.items():
            parts[kind] = parts.get(kind, 0.0) + chunks * seconds
        # The time that launches add to the device's own.
        waiting = work.total - sum(work.by_kind.values())
        parts[LAUNCHES] = parts.get(LAUNCHES, 0.0) + chunks * waiting

    passes = chunks * (forward.total + backward.total)
    # Only the last chunk's backward pass hides gradients; gathers come ahead in all passes.
    hidden = min(gradients, backward.total) + min(gathers, passes)
    parts[LOSS] = loss.total
    parts[OPTIMIZER] = optimizer.total
    parts[MESSAGES] = gradients + gathers - hidden + exposed
    return StepSeconds(parts={name: seconds for name, seconds in parts.items() if seconds})
