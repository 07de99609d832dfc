"""The data and the cluster that `benchmarks.order` simulates."""

from __future__ import annotations

import numpy as np

from align_train.stream.order import Order
from align_train.stream.permutation import Integers

SHARDS = 75_000
MEAN_PAIRS = 9_400  # of a shard
BYTES_PER_PAIR = 45_000

NODES = 128
RANKS = 8 * NODES
LANES = 1024
WINDOW = 32_768
BATCH = 65_536

TINY = 0.01  # the share of shards with fewer than 200 pairs
EMPTY = 0.001


def uneven_counts() -> Integers:
    """Draws the pairs of each shard: 1 % are tiny, 0.1 % are empty."""
    random = np.random.default_rng(0)
    counts = random.normal(MEAN_PAIRS, 1_000, SHARDS).astype(np.int64).clip(0)
    kind = random.random(SHARDS)
    tiny = kind < TINY
    counts[tiny] = random.integers(1, 200, int(tiny.sum()))
    counts[kind < EMPTY] = 0
    return counts


def make_order(counts: Integers, lanes: int = LANES) -> Order:
    """Makes the order of a run on this cluster."""
    return Order(counts=counts, seed=0, lanes=lanes, window=WINDOW)
