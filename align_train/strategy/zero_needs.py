"""What a rank holds and sends under DeepSpeed's ZeRO, by formula.

DeepSpeed copies each complete gradient into a bucket and reduces a bucket when it is full, or when
the backward pass is over. A bucket is allocated whole: 2 GB by default, and twice if messages
overlap with the backward pass. A GPU takes that memory at once. A CPU takes what is written to.

Sizes of buckets and distances are numbers of weights, in DeepSpeed's options as here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from align_train.strategy.needs import (
    ALL_GATHER,
    ALL_REDUCE,
    FLOAT32,
    REDUCE_SCATTER,
    SCRATCH_OF_GLOO,
    Needs,
    Sent,
    Sizes,
    size_of,
)

# DeepSpeed's own, for options that are not set.
DEFAULTS = {
    "contiguous_gradients": True,
    "reduce_scatter": True,
    "reduce_bucket_size": 500_000_000,
    "stage3_prefetch_bucket_size": 50_000_000,
    "stage3_param_persistence_threshold": 100_000,
    "stage3_max_live_parameters": 1_000_000_000,
    "stage3_max_reuse_distance": 1_000_000_000,
}


def needs_of_zero(stage: int, options: Mapping[str, object], sizes: Sizes) -> Needs:
    """What a rank holds and sends under a stage of ZeRO.

    Args:
        stage: 1, 2 or 3.
        options: Of DeepSpeed's `zero_optimization`.
        sizes: Of the model and the step.
    """
    values = {**DEFAULTS, "overlap_comm": sizes.on_gpu, **options}
    numbers = {name: int(value) for name, value in values.items() if isinstance(value, int)}
    if stage == 3:
        return _stage_3(numbers, sizes)
    return _stages_1_and_2(stage, numbers, sizes)


def _stages_1_and_2(stage: int, options: Mapping[str, int], sizes: Sizes) -> Needs:
    """Whole weights; a share of the optimizer's state, and of a second copy of the weights."""
    share = sizes.gradients // sizes.world
    bucket = options["reduce_bucket_size"] * FLOAT32
    # What is reduced is copied from the bucket once more.
    copied = min(sizes.gradients, bucket)
    scratch = 0 if sizes.on_gpu else SCRATCH_OF_GLOO

    # Stage 1 waits until the backward pass is over, unless messages overlap with it.
    at_end = stage == 1 and not options["overlap_comm"]
    fits = copied == sizes.gradients and not sizes.on_gpu
    buckets = 0
    if options["contiguous_gradients"]:
        buckets = 2 * bucket if options["overlap_comm"] else bucket
    # Gathered weights lie where they are used, but gloo receives them in a copy.
    received = 0 if sizes.on_gpu else sizes.gradients - share

    sent: Sent = Counter()
    sent[ALL_REDUCE, sizes.gradients] += 1
    sent[ALL_GATHER, sizes.gradients] += 1
    return Needs(
        weights=sizes.weights + share,
        gradients=share,
        optimizer=sizes.state // sizes.world,
        ema=sizes.gradients if sizes.ema else 0,
        # The bucket of a CPU has as much memory as the gradients in it, and these have no other.
        buffers=0 if at_end or fits else buckets + copied + scratch,
        reducing=copied + scratch if at_end or fits else 0,
        # The share of gradients is made one flat tensor before the step.
        working=max(share, sizes.working // sizes.world, received),
        keeps_gradients="step",
        moves_gradients=not (at_end or fits),
        kept="flat",
        sent=sent,
    )


def _stage_3(options: Mapping[str, int], sizes: Sizes) -> Needs:
    """A share of everything, whole weights during the passes, and a bucket that is kept."""
    world = sizes.world
    threshold = options["stage3_param_persistence_threshold"]
    small = size_of(shape for shape in sizes.shapes if size_of([shape]) <= threshold * FLOAT32)
    share = sizes.gradients // world
    bucket = options["reduce_bucket_size"] * FLOAT32
    filled = min(sizes.gradients, bucket)
    # What is reduced is sorted by rank in a copy, and gloo makes another one.
    copied = filled if sizes.on_gpu else 2 * filled + SCRATCH_OF_GLOO
    whole, gathers = _gathered(options, sizes)

    sent: Sent = Counter()
    sent[ALL_GATHER, sizes.weights - small] += gathers
    sent[ALL_GATHER, small] += 1
    sent[REDUCE_SCATTER if options["reduce_scatter"] else ALL_REDUCE, sizes.gradients] += 1
    return Needs(
        # Small weights stay whole, beside their share.
        weights=sizes.weights // world + small + share,
        gradients=share,
        optimizer=sizes.state // world,
        ema=share if sizes.ema else 0,
        whole=whole - small,
        # A message for many weights ahead is kept until the last of these has been copied from it.
        fetching=min(sizes.weights - small, options["stage3_prefetch_bucket_size"] * FLOAT32),
        kept_buffers=bucket if sizes.on_gpu else filled,
        buffers=copied if sizes.gradients > bucket else 0,
        reducing=copied if sizes.gradients <= bucket else 0,
        # The share of gradients is made one flat tensor before the step.
        working=max(share, sizes.working // world),
        keeps_gradients="always",
        moves_gradients=True,
        kept="parts",
        sent=sent,
    )


def _gathered(options: Mapping[str, int], sizes: Sizes) -> tuple[int, int]:
    """Bytes of the weights that are whole at a time, and how often a step gathers them.

    A weight stays whole if passes use it again before they have used so many others. The weights of
    the first block are used again after those of all others, forward and backward. It also stays if
    DeepSpeed has looked ahead as far as its next use, which nothing but the most weights that may
    be whole at a time holds up: each layer fetches another bucket ahead.
    """
    distance = options["stage3_max_reuse_distance"] * FLOAT32
    live = options["stage3_max_live_parameters"] * FLOAT32
    looks_ahead = options["stage3_prefetch_bucket_size"] > 0
    if 2 * sizes.weights <= distance or (looks_ahead and sizes.weights <= live):
        return sizes.weights, 1

    passes = sizes.chunks * (3 if sizes.recompute else 2)
    stays = sizes.weights if sizes.weights <= distance else distance // 2
    return min(sizes.weights, max(stays, live if looks_ahead else 0)), passes
