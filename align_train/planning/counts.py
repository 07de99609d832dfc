"""What one rank computes, moves and holds in each part of a training step.

`counting.py` counts one chunk. A step of many chunks, of any size, follows from that one
(`memory.py`, `seconds.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from align_train.strategy.needs import FLOAT32, Sent, Shape, shapes_of
from align_train.training.operators import Operator, Operators


@dataclass(frozen=True, kw_only=True)
class ChunkCounts:
    """One chunk through the towers, forward and backward. Memory is in bytes.

    Attributes:
        pairs: Pairs of the chunk.
        forward_operators: Of the forward pass.
        backward_operators: Of the backward pass; if the chunk is recomputed, of that pass too.
        shared: Held from the first chunk to the last one, once for all: casts of the weights.
        kept: Held from the chunk's forward pass to its backward pass.
        forward: The most held in the forward pass, beside `shared`.
        backward_alone: The most held in the backward pass, beside `shared` and the gradients.
        backward_growing: The same with the gradients that are complete.
        backward_shrinking: The same with the gradients that are not yet complete.
    """

    pairs: int
    forward_operators: Operators
    backward_operators: Operators
    shared: int
    kept: int
    forward: int
    backward_alone: int
    backward_growing: int
    backward_shrinking: int

    @property
    def operators(self) -> Operators:
        """Of both passes."""
        return self.forward_operators + self.backward_operators

    def recomputed(self, dim: int) -> ChunkCounts:
        """The same chunk if only its embeddings are kept, and it is computed again.

        Args:
            dim: The dimension of the embeddings.
        """
        # An image's and a text's embedding for each pair, in float32.
        kept = 2 * FLOAT32 * self.pairs * dim
        return replace(
            self,
            backward_operators=self.operators,
            kept=kept,
            # Without a graph nearly nothing stays: the backward pass holds more in any case.
            forward=kept,
            # The second pass ends as the first one would have, with the gradients still to come.
            backward_alone=max(self.backward_alone, self.forward),
            backward_growing=max(self.backward_growing, self.forward),
            backward_shrinking=max(self.backward_shrinking, self.forward),
        )

    def of(self, pairs: int) -> ChunkCounts:
        """A chunk of another size: all but casts and gradients grows with its pairs.

        Args:
            pairs: Its pairs.
        """
        factor = pairs / self.pairs
        alone = round(self.backward_alone * factor)
        return ChunkCounts(
            pairs=pairs,
            forward_operators=resized(self.forward_operators, factor),
            backward_operators=resized(self.backward_operators, factor),
            shared=self.shared,
            kept=round(self.kept * factor),
            forward=round(self.forward * factor),
            backward_alone=alone,
            backward_growing=alone + self.backward_growing - self.backward_alone,
            backward_shrinking=alone + self.backward_shrinking - self.backward_alone,
        )


@dataclass(frozen=True, kw_only=True)
class LossCounts:
    """The loss of a rank's pairs, forward and backward. Memory is in bytes.

    Attributes:
        operators: Of both passes, on this rank.
        collectives: What this rank sends and gets.
        forward: The most held in the forward pass.
        backward: The most held in the backward pass.
    """

    operators: Operators
    collectives: Sent
    forward: int
    backward: int

    def of(self, factor: float) -> LossCounts:
        """The same loss of more pairs, in more tiles; both passes hold what grows with pairs.

        Args:
            factor: How many times as many pairs each rank has.
        """
        if factor == 1:
            return self
        operators: Operators = Counter()
        for operator, times in self.operators.items():
            # Tiles compare all images with all texts: their number grows with the square.
            operators[operator] = round(times * factor**2)
        collectives: Sent = Counter()
        for (kind, size), times in self.collectives.items():
            # Added: two sizes may be the same one when rounded.
            collectives[kind, round(size * factor)] += times
        return LossCounts(
            operators=operators,
            collectives=collectives,
            forward=round(self.forward * factor),
            backward=round(self.backward * factor),
        )


@dataclass(frozen=True, kw_only=True)
class OptimizerCounts:
    """A step of the optimizer over whole parameters. Memory is in bytes.

    Attributes:
        operators: Of the gradient's norm and the step.
        state: Held between steps.
        working: The most held in a step, beside weights, gradients and state.
    """

    operators: Operators
    state: int
    working: int


@dataclass(frozen=True, kw_only=True)
class ModelCounts:
    """What a model has. Memory is in bytes.

    Attributes:
        parameters: How many numbers are trained or locked.
        weights: Of all parameters.
        gradients: Of the trained parameters.
        statistics: Of the buffers, BatchNorm's running statistics for the most part.
        blocks: Shapes of the weights of each block of the towers, in order.
        rest: Shapes of all other weights.
        dim: The dimension of the embeddings.
    """

    parameters: int
    weights: int
    gradients: int
    statistics: int
    blocks: Sequence[Sequence[Shape]]
    rest: Sequence[Shape]
    dim: int

    @property
    def shapes(self) -> list[Shape]:
        """Of all weights."""
        return shapes_of(self.blocks, self.rest)


def resized(operators: Operators, factor: float) -> Operators:
    """The same operators on tensors of another size.

    Args:
        operators: How often each kind and size of operator runs.
        factor: Of their FLOPs and bytes.
    """
    found: Operators = Counter()
    for (kind, flops, moved), times in operators.items():
        found[Operator(kind, flops * factor, moved * factor)] += times
    return found
