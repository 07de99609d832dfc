"""Bytes that collectives put on the wire.

Both libraries pass parts of a tensor around a ring. NCCL's reduce-scatter sends a part to each rank
once; torch's gloo makes one of an all-reduce (measured: `python -m benchmarks.plan.wire`).
"""

from __future__ import annotations

from align_train.planning.counts import LossCounts
from align_train.strategy.needs import (
    ALL_GATHER,
    ALL_REDUCE,
    BROADCAST,
    REDUCE_SCATTER,
    Needs,
    Sent,
)

# Times that a ring carries the whole tensor, but for the one part that each rank has already.
_ROUNDS_OF_NCCL = {ALL_REDUCE: 2, ALL_GATHER: 1, REDUCE_SCATTER: 1, BROADCAST: 1}
_ROUNDS_OF_GLOO = _ROUNDS_OF_NCCL | {REDUCE_SCATTER: 2}


def bytes_on_wire(sent: Sent, *, world: int, on_gpu: bool) -> float:
    """What one rank sends.

    Args:
        sent: The collectives.
        world: Ranks.
        on_gpu: Whether NCCL carries them, and not gloo.
    """
    rounds = _ROUNDS_OF_NCCL if on_gpu else _ROUNDS_OF_GLOO
    total = 0.0
    for (kind, size), times in sent.items():
        total += rounds[kind] * size * times * (world - 1) / world
    return total


def sent_in_step(needs: Needs, loss: LossCounts, statistics: int) -> Sent:
    """All collectives of a step.

    Args:
        needs: What the strategy sends.
        loss: What the loss sends.
        statistics: Bytes of BatchNorm's running statistics, which ranks average in float32.
    """
    # A sum of counters is a new one: adding to it leaves the strategy's as it is.
    sent = needs.sent + loss.collectives
    if statistics:
        sent[ALL_REDUCE, statistics] += 1
    return sent
