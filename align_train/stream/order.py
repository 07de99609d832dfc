"""Which pair stands where: a pure function of (manifest, seed, position), without I/O and without state.

The order is L equal *lanes*. Global batch by global batch, lane l gives its next `batch_size / L` pairs; a global batch is
laid out lane by lane. Epoch e permutes the shards by (seed, e), lays their pairs end to end, rotates them by a hash of
(seed, e), and cuts them into L equal lanes; inside a lane, pairs are permuted within windows that span a few shards. Data
that fits into lanes × window pairs is one window over the whole epoch. In an epoch each pair comes exactly once, but for a
remainder of fewer than L pairs, which the rotation (or the permutation) moves about from epoch to epoch.

The permutation is a keyed bijection that is evaluated point by point (a Feistel network on our own integer hash, with cycle
walking), so any position costs the same: a few microseconds, whatever came before. Per epoch in use: one array of int64 per
shard, twice. NumPy's generators are not used: their streams may change between versions, and then so would the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError

Integers = NDArray[np.int64]
Words = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, splitmix64's increment
_ROUNDS = 6
_LEAST_BITS = 6  # smaller domains have too few Feistel permutations to look random


def _mix(words: Words) -> Words:
    """splitmix64's finaliser (Steele, Lea, Flood 2014): every input bit moves every output bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def hash_words(*parts: int | Integers | Words) -> Words:
    """One 64-bit word per element from integers or arrays of them (broadcast against each other)."""
    with np.errstate(over="ignore"):
        state = np.zeros(1, dtype=np.uint64)
        for part in parts:
            word = np.atleast_1d(np.asarray(part)).astype(np.uint64)
            state = _mix((state + _GOLDEN) ^ _mix(word + _GOLDEN))
        return state


def permute(points: Integers, size: Integers, key: Words) -> Integers:
    """Point i of a permutation of `range(size)` chosen by `key`, element by element; 0 <= points < size."""
    exponent = np.frexp(np.maximum(size - 1, 1).astype(np.float64))[1]  # bits that hold size - 1
    bits = np.maximum(exponent, _LEAST_BITS).astype(np.uint64)
    low = bits >> np.uint64(1)
    one = np.uint64(1)
    low_mask, high_mask = (one << low) - one, (one << (bits - low)) - one
    result = points.astype(np.uint64)
    size_word = size.astype(np.uint64)
    active = np.arange(len(result))
    while len(active):  # cycle walking: apply again until the point falls into range(size); at most ~2 times on average
        left, right = result[active] >> low[active], result[active] & low_mask[active]
        for number in range(_ROUNDS):
            if number % 2 == 0:
                right = right ^ (hash_words(key[active], left, number) & low_mask[active])
            else:
                left = left ^ (hash_words(key[active], right, number) & high_mask[active])
        result[active] = (left << low[active]) | right
        active = active[result[active] >= size_word[active]]
    return result.astype(np.int64)


@dataclass(frozen=True)
class Visits:
    """Where some slots of the order lead, element by element: the epoch, the shard's number in the manifest, the pair in it."""

    epoch: Integers
    shard: Integers
    pair: Integers

    def __len__(self) -> int:
        return len(self.epoch)


class Order:
    """The order of all epochs.

    counts: pairs of each shard, in the manifest's order.
    lanes: L; it divides every batch size and is divided by every world size that the order shall serve.
    window: pairs of a lane that are shuffled among each other.
    """

    def __init__(self, *, counts: Sequence[int] | Integers, seed: int, lanes: int, window: int) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.seed, self.lanes, self.window = seed, lanes, window
        self.pairs = int(self.counts.sum())
        self.lane_length = self.pairs // lanes
        self.whole_epoch = self.pairs <= lanes * window
        if self.lane_length == 0:
            raise UserError(
                f"data.lanes: {self.pairs} pairs cannot fill {lanes} lanes; set data.lanes to at most {max(1, self.pairs)}"
            )
        self._shards_of_epoch = lru_cache(maxsize=4)(self._lay_out_epoch)

    @property
    def epoch_pairs(self) -> int:
        """Pairs visited in an epoch: all but a remainder of fewer than `lanes`."""
        return self.lane_length * self.lanes

    def global_batch(self, cursor: int, batch_size: int, slots: Integers) -> Visits:
        """Slots (numbers in `range(batch_size)`) of the global batch that begins after `cursor` consumed pairs."""
        per_lane = batch_size // self.lanes
        return self.at(slots // per_lane, cursor // self.lanes + slots % per_lane)

    def at(self, lane: Integers, position: Integers) -> Visits:
        """The pairs at positions of lanes; a position counts on through all epochs."""
        epoch = position // self.lane_length
        offset = position % self.lane_length
        shard, pair = np.empty_like(offset), np.empty_like(offset)
        for number in np.unique(epoch):
            here = epoch == number
            laid = self._place_in_epoch(int(number), lane[here], offset[here])
            order, ends = self._shards_of_epoch(int(number))
            slot = np.searchsorted(ends, laid, side="right")
            shard[here] = order[slot]
            pair[here] = laid - (ends[slot] - self.counts[order[slot]])
        return Visits(epoch=epoch, shard=shard, pair=pair)

    def _lay_out_epoch(self, epoch: int) -> tuple[Integers, Integers]:
        """The epoch's permutation of the shards, and where each one ends when their pairs are laid end to end."""
        order = np.argsort(hash_words(self.seed, epoch, 1, np.arange(len(self.counts))), kind="stable")
        return order, np.cumsum(self.counts[order])

    def _place_in_epoch(self, epoch: int, lane: Integers, offset: Integers) -> Integers:
        """Lane and offset -> place among the epoch's pairs laid end to end."""
        if self.whole_epoch:
            key = np.broadcast_to(hash_words(self.seed, epoch, 2), offset.shape)
            return permute(lane * self.lane_length + offset, np.full_like(offset, self.pairs), key)
        # The first window of each lane is cut short by a different amount: or all lanes would want new shards at once.
        first = np.maximum(self.window * (lane + 1) // self.lanes, 1)
        window = np.where(offset < first, 0, (offset - first) // self.window + 1)
        start = np.where(window == 0, 0, first + (window - 1) * self.window)
        length = np.where(window == 0, first, self.window)
        size = np.minimum(length, self.lane_length - start)
        key = hash_words(self.seed, epoch, 3, lane, window)
        within = start + permute(offset - start, size, key)
        rotation = int(hash_words(self.seed, epoch, 4)[0] % np.uint64(self.pairs))
        return (lane * self.lane_length + within + rotation) % self.pairs
