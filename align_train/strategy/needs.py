"""What one rank holds and sends under a strategy, by formula: for plans, before anything is built.

Each strategy knows its own formulas (`StrategyRecipe.needs`). They are checked against what real
runs hold and send (`python -m benchmarks.plan`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

ALL_REDUCE = "all_reduce"
ALL_GATHER = "all_gather"
REDUCE_SCATTER = "reduce_scatter"
BROADCAST = "broadcast"

Keeps = Literal["always", "passes", "step"]

Kept = Literal["whole", "rows", "flat", "parts"]
"""How a strategy keeps the state: everything whole on each rank (DDP); rows of each tensor (FSDP2);
whole weights and flat moments (ZeRO 1 and 2); parts of each weight and flat moments (ZeRO 3)."""

Sent = Counter[tuple[str, int]]
"""Kind of a collective and bytes of the whole tensor -> how often a step has it."""

Shape = tuple[int, ...]

FLOAT32 = 4
"""Bytes of a weight, of its gradient and of each of its moments, in a run of any precision."""

SCRATCH_OF_GLOO = 1_800_000
"""Bytes: gloo's all-reduce and reduce-scatter take a large tensor piece by piece (measured)."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A model's and a step's sizes, in bytes if nothing else is said.

    Attributes:
        weights: Of all parameters.
        gradients: Of the trained parameters.
        state: The optimizer's, for whole parameters.
        working: The most that a step of the optimizer takes beside these, for whole parameters.
        blocks: Shapes of the weights of each block of the towers.
        rest: Shapes of all other weights.
        ema: Whether the run keeps an average of the weights.
        chunks: Chunks of a rank in a step.
        recompute: Whether each chunk goes through the towers again in the backward pass.
        world: Ranks.
        on_gpu: Whether ranks compute on GPUs.
    """

    weights: int
    gradients: int
    state: int
    working: int
    blocks: Sequence[Sequence[Shape]]
    rest: Sequence[Shape]
    ema: bool
    chunks: int
    recompute: bool
    world: int
    on_gpu: bool

    @property
    def shapes(self) -> list[Shape]:
        """Of all weights."""
        return shapes_of(self.blocks, self.rest)


def shapes_of(blocks: Iterable[Iterable[Shape]], rest: Iterable[Shape]) -> list[Shape]:
    """The shapes of all weights of a model.

    Args:
        blocks: Those of each block of the towers.
        rest: All others.
    """
    found = list(rest)
    for block in blocks:
        found.extend(block)
    return found


def size_of(shapes: Iterable[Shape], *, rows: int = 1) -> int:
    """Bytes of weights.

    Args:
        shapes: Their shapes.
        rows: The first dimension of each is padded to a multiple of this.
    """
    size = 0
    for shape in shapes:
        # A scalar has no first dimension; it counts as one row.
        first = shape[0] if shape else 1
        size += math.ceil(first / rows) * rows * math.prod(shape[1:]) * FLOAT32
    return size


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What one rank holds, in bytes, and sends in a step.

    Attributes:
        weights: Held all the time.
        gradients: Held when the backward pass is over, until the next one begins or ends.
        optimizer: The optimizer's state.
        ema: The average of the weights.
        whole: Weights that are gathered during the passes.
        fetching: Of gathered weights, a second time, in the forward pass of a step's first chunk.
        kept_buffers: For messages, held all the time.
        buffers: For messages, at most at a time, in the backward pass.
        reducing: For the messages of all gradients at once, when the backward pass is over and all
            of them are still whole.
        working: Within a step of the optimizer.
        keeps_gradients: `always`: their memory stays; `passes`: from their backward pass to the
            next forward pass's end; `step`: from their backward pass to the optimizer's step.
        moves_gradients: Whether a gradient leaves the place in which autograd made it when it is
            complete, and so takes memory twice for a moment.
        kept: How the state lies on the ranks, which a checkpoint makes whole.
        sent: The collectives of a step.
    """

    weights: int
    gradients: int
    optimizer: int
    ema: int
    whole: int = 0
    fetching: int = 0
    kept_buffers: int = 0
    buffers: int = 0
    reducing: int = 0
    working: int = 0
    keeps_gradients: Keeps
    moves_gradients: bool
    kept: Kept = "whole"
    sent: Sent = field(default_factory=Counter)
