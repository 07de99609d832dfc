"""The memory of one rank, part by part, and its peak: from counts and from a strategy's needs.

A step has some stretches, and each has a largest moment:

- *forward*, at the last chunk: what earlier chunks keep, and this one's pass; or at the first one:
  weights on their way;
- *loss*: what all chunks keep, and the loss;
- *backward*: at its first chunk all others are still kept; at its last one all gradients are there;
- *reduce*, under strategies that send all gradients at once, when the backward pass is over;
- *step* of the optimizer: no chunk is kept, but the optimizer works.

The peak is the largest of these. Its parts add up to it. Batches wait on the
host, and are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from align_train.planning.counts import ChunkCounts, LossCounts
from align_train.planning.hardware import GB
from align_train.strategy.needs import Needs

WEIGHTS = "weights"
GRADIENTS = "gradients"
OPTIMIZER = "optimizer"
EMA = "average of the weights"
WHOLE = "gathered weights"
BUFFERS = "message buffers"
STATISTICS = "statistics"
ACTIVATIONS = "activations"
EMBEDDINGS = "embeddings and loss"
WORKING = "optimizer at work"
LIBRARIES = "libraries"

LIBRARIES_ON_CPU = 15_000_000
"""Bytes: objects of Python, Lightning and autograd that a run makes beside its tensors.

Measured after a step: the same for models of 1 and of 33 million weights. FSDP makes 5 MB more,
ZeRO's third stage 8 to 39. Code that is loaded before the model is built does not count.
"""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A rank's memory at its peak, in bytes.

    Attributes:
        parts: By name; they add up to the peak.
        at: The stretch of the step that has the peak: `forward`, `loss`, `backward`, `reduce` or
            `step`.
    """

    parts: dict[str, int]
    at: str

    @property
    def peak(self) -> int:
        """The most that the rank holds at a time."""
        return sum(self.parts.values())

    @property
    def largest(self) -> str:
        """The largest part, in words."""
        name = max(self.parts, key=lambda part: self.parts[part])
        return f"most of it {name} ({self.parts[name] / GB:.1f} GB)"


def plan_memory(
    *,
    chunk: ChunkCounts,
    chunks: int,
    loss: LossCounts,
    needs: Needs,
    all_gradients: int,
    statistics: int,
    libraries: int = 0,
) -> Memory:
    """Finds the peak of a step.

    Args:
        chunk: Counts of one chunk.
        chunks: Chunks of the rank in a step.
        loss: Counts of the loss.
        needs: What the strategy holds on this rank.
        all_gradients: Bytes of the gradients of all trained parameters.
        statistics: Bytes of the model's buffers.
        libraries: Bytes that libraries hold on the device beside tensors.
    """
    always = {
        WEIGHTS: needs.weights,
        OPTIMIZER: needs.optimizer,
        EMA: needs.ema,
        BUFFERS: needs.kept_buffers,
        STATISTICS: statistics,
        LIBRARIES: libraries,
    }
    # All chunks but the one that is computed.
    kept = chunk.kept * (chunks - 1)
    # With `always` or `passes`, the last step's gradients are still held in the forward pass.
    before = needs.gradients if needs.keeps_gradients != "step" else 0
    passing = always | {WHOLE: needs.whole, GRADIENTS: before}
    # Weights are fetched at the first chunk; most graphs are kept at the last one.
    forward = passing | {ACTIVATIONS: chunk.shared + kept + chunk.forward}
    if needs.fetching > kept:
        forward = passing | {
            WHOLE: needs.whole + needs.fetching,
            ACTIVATIONS: chunk.shared + chunk.forward,
        }
    with_loss = passing | {
        ACTIVATIONS: chunk.shared + kept + chunk.kept,
        # Both are counted from the same start, so they do not add up.
        EMBEDDINGS: max(loss.forward, loss.backward),
    }
    moments = {
        "forward": forward,
        "loss": with_loss,
        "backward": _backward(always, chunk, chunks, needs, all_gradients),
        "reduce": _reduction(always, needs, all_gradients),
        "step": always | {GRADIENTS: needs.gradients, WORKING: needs.working},
    }
    at = max(moments, key=lambda name: sum(moments[name].values()))
    return Memory(parts={name: size for name, size in moments[at].items() if size}, at=at)


def _reduction(always: dict[str, int], needs: Needs, all_gradients: int) -> dict[str, int]:
    """The moment in which all gradients are sent at once; nothing more, if they are not."""
    if not needs.reducing:
        return always
    # A strategy that moves gradients has moved them to a buffer that it keeps.
    waiting = needs.gradients if needs.moves_gradients else all_gradients
    return always | {GRADIENTS: waiting, BUFFERS: needs.kept_buffers + needs.reducing}


def _backward(
    always: dict[str, int], chunk: ChunkCounts, chunks: int, needs: Needs, all_gradients: int
) -> dict[str, int]:
    """The largest moment of the backward pass, part by part.

    With several chunks, autograd adds up all gradients of a rank before the first is complete.
    """
    passing = always | {WHOLE: needs.whole, BUFFERS: needs.kept_buffers + needs.buffers}
    # Gradients in buckets have their memory before the first of them is complete.
    stays = needs.gradients if needs.keeps_gradients == "always" else 0
    kept = chunk.shared + chunk.kept * (chunks - 1)

    growing = chunk.backward_growing - chunk.backward_alone
    if chunks == 1 and needs.moves_gradients:
        # The share of gradients that stays grows while activations go.
        arrived = round(growing * needs.gradients / max(all_gradients, 1))
        return passing | {
            GRADIENTS: max(stays, arrived),
            ACTIVATIONS: kept + chunk.backward_alone,
        }

    # At the first chunk, from its last layers on.
    first = passing | {GRADIENTS: stays + growing, ACTIVATIONS: kept + chunk.backward_alone}
    if chunks == 1:
        return first

    # At the last one gradients wait until they are complete, then go where they are kept.
    waiting = all_gradients
    if needs.moves_gradients:
        shrinking = chunk.backward_shrinking - chunk.backward_alone
        waiting = max(stays + shrinking, needs.gradients)
    last = passing | {
        GRADIENTS: waiting,
        ACTIVATIONS: chunk.shared + chunk.backward_alone,
    }
    return max(first, last, key=lambda parts: sum(parts.values()))
