"""The order of a run's pairs: a pure function of (manifest, seed, position), without state or I/O.

So a run resumes by asking for another step, on any number of processes. Anyone can ask which pairs
a step is trained on, or when a pair comes.

The order is L equal *lanes*. A global batch is laid out lane by lane: each lane gives its next
`batch_size / L` pairs. A rank takes a contiguous range of lanes, so it reads few shards at a time.
In an epoch each pair comes exactly once, except for a remainder of fewer than L pairs, which is
another one in every epoch. `source_order.py` has the steps from (lane, position) to a pair.

Several sources (coyo 3 : cc12m 1) share the lanes in whole: of every 4 neighbouring lanes, 3 are
coyo's. Each source has an order of its own, with epochs of its own, over its own lanes.

The pairs of a shard with rates are *visits* here (`shard_visits.py` says of which pair): one with
rate 2 comes twice in an epoch.

The permutations are computed point by point (`permutation.py`): any position costs the same,
whatever came before.

Price (`benchmarks/order`, 75,000 shards, 700 M pairs, one core): about 2 ms for 16,384 points, and
5 ms more for the first point of an epoch, which sorts the shards. Making an order takes less than
1 ms. It keeps three arrays of int64 a shard for each of the last 4 epochs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from math import gcd

import numpy as np

from align_train.errors import UserError
from align_train.stream.permutation import Integers, Salt, hash_words
from align_train.stream.source_order import SourceOrder, Visits, Window


class Order:
    """The order of a run's pairs: the lanes of one source, or of several."""

    def __init__(
        self,
        *,
        counts: Sequence[int] | Integers,
        seed: int,
        lanes: int,
        window: int,
        sources: Sequence[int] | None = None,
        weights: Sequence[int] = (1,),
        dropped: Collection[int] = (),
    ) -> None:
        """Deals the lanes out to the sources.

        Args:
            counts: The pairs of each shard (its visits, with rates), in the manifest's order.
            seed: Chooses among all orders.
            lanes: L. It must divide the batch size, and the number of ranks must divide it.
            window: Pairs of a lane that are shuffled among each other.
            sources: The number of each source's shards, in the manifest's order; None: one source.
            weights: The sources' shares of every batch. Their sum, in lowest terms, divides L.
            dropped: Indices of shards that have vanished.

        Raises:
            UserError: The lanes cannot be dealt out so, or there are fewer pairs than lanes.
        """
        self.counts = np.asarray(counts, dtype=np.int64)
        self.seed = seed
        self.lanes = lanes
        self.window = window
        self.weights = weights
        self.pattern = lane_pattern(weights)
        self.dropped = frozenset(dropped)
        if lanes % len(self.pattern):
            raise UserError(
                f"data.lanes={lanes} cannot be shared out as data.weights={list(weights)}; take a "
                f"multiple of {len(self.pattern)} that divides the batch"
            )

        repeats = lanes // len(self.pattern)
        shards_of_sources = [len(self.counts)] if sources is None else sources
        bounds = np.cumsum([0, *shards_of_sources]).tolist()
        shares = np.bincount(self.pattern) * repeats
        self.sources: list[SourceOrder] = []
        for index, (first, last) in enumerate(pairwise(bounds)):
            source = self._order_of_source(index, first, last, lanes=int(shares[index]))
            self.sources.append(source)

        # Lane l is its source's lane `_lane_in_source[l]`. Neighbouring lanes stay neighbours, so
        # that a node's lanes are contiguous in each source.
        self._source_of_lane: Integers = np.tile(self.pattern, repeats)
        self._lane_in_source = np.zeros(lanes, dtype=np.int64)
        for index in range(len(self.sources)):
            mine = self._source_of_lane == index
            self._lane_in_source[mine] = np.arange(mine.sum())

    def _order_of_source(self, index: int, first: int, last: int, *, lanes: int) -> SourceOrder:
        """Makes the order of the source that has the shards `first` to `last` (exclusive)."""
        # Two sources of equal counts must not go in step. The first one keeps the run's seed, so
        # its order is the one that it would have alone.
        seed = self.seed if index == 0 else int(hash_words(self.seed, Salt.SOURCE, index)[0])
        return SourceOrder(
            counts=self.counts[first:last],
            seed=seed,
            lanes=lanes,
            window=self.window,
            first_shard=first,
            dropped=[shard for shard in self.dropped if first <= shard < last],
        )

    def replace(
        self,
        *,
        lanes: int | None = None,
        window: int | None = None,
        dropped: Collection[int] | None = None,
    ) -> Order:
        """Returns the order with some parameters changed; None: as they are here."""
        return Order(
            counts=self.counts,
            seed=self.seed,
            lanes=lanes or self.lanes,
            window=window or self.window,
            sources=[len(source.counts) for source in self.sources],
            weights=self.weights,
            dropped=self.dropped if dropped is None else dropped,
        )

    def source_of(self, shard: int) -> SourceOrder:
        """Returns the order of the source that a shard belongs to."""
        # From the back: the first one that begins at or before the shard is the one that has it.
        return next(source for source in reversed(self.sources) if shard >= source.first_shard)

    def global_batch(self, cursor: int, batch_size: int, slots: Integers) -> Visits:
        """Returns the pairs at slots of a global batch.

        Args:
            cursor: The pairs of the order that are consumed before the batch, by all ranks.
            batch_size: Pairs of the global batch.
            slots: `[n]`, places in the global batch, from 0 to below `batch_size`.
        """
        per_lane = batch_size // self.lanes
        return self.at(slots // per_lane, cursor // self.lanes + slots % per_lane)

    def at(self, lane: Integers, position: Integers) -> Visits:
        """Returns the pairs at positions of lanes.

        Args:
            lane: `[n]`, from 0 to below `lanes`.
            position: `[n]`, counted from the lane's first pair on, through all epochs.
        """
        if len(self.sources) == 1:
            return self.sources[0].at(lane, position)

        epoch = np.empty_like(position)
        shard = np.empty_like(position)
        pair = np.empty_like(position)
        source_of_slot = self._source_of_lane[lane]
        for index, source in enumerate(self.sources):
            mine = source_of_slot == index
            visits = source.at(self._lane_in_source[lane[mine]], position[mine])
            epoch[mine] = visits.epoch
            shard[mine] = visits.shard
            pair[mine] = visits.pair
        return Visits(epoch=epoch, shard=shard, pair=pair)

    def source_of_lane(self, lane: int) -> SourceOrder:
        """Returns the order of the source that a lane belongs to."""
        return self.sources[int(self._source_of_lane[lane])]

    def window_at(self, lane: int, position: int) -> Window:
        """Returns the window of pairs that a position of a lane is drawn from."""
        return self.source_of_lane(lane).window_at(int(self._lane_in_source[lane]), position)

    def find(self, shard: int, pair: int, epoch: int) -> tuple[int, int] | None:
        """Returns the (lane, position) at which a pair comes: `at`, backwards.

        Args:
            shard: The shard's index in the manifest.
            pair: The pair's index in the shard.
            epoch: The epoch of the pair's source.

        Returns:
            None if the epoch skips the pair, or its shard has vanished.
        """
        source = self.source_of(shard)
        found = source.find(shard, pair, epoch)
        if found is None:
            return None

        lane_in_source, position = found
        lanes = np.flatnonzero(self._source_of_lane == self.sources.index(source))
        return int(lanes[lane_in_source]), position

    def neighbour(self, shard: int, epoch: int) -> int:
        """Returns the shard whose pairs replace those of a shard without a good one."""
        return self.source_of(shard).neighbour(shard, epoch)

    def next_epoch(self, cursor: int) -> int:
        """Returns the cursor, this one or the next, at which the first source begins an epoch."""
        length = self.sources[0].lane_length * self.lanes
        return -(-cursor // length) * length


def lane_pattern(weights: Sequence[int]) -> Integers:
    """Deals the fewest neighbouring lanes that hold the sources by their weights: 3 : 1 -> 0 0 0 1.

    The lanes of a source are spread, not stacked: any cut of the lanes holds about the shares.

    Args:
        weights: The shares of the sources.

    Returns:
        The source's index of each of these lanes.

    Raises:
        UserError: There are no weights, or one is below 1.
    """
    if not weights or min(weights) < 1:
        raise UserError(f"data.weights={list(weights)}: expected whole numbers, at least 1")

    shares = np.array(weights, dtype=np.int64) // gcd(*weights)
    total = int(shares.sum())
    given = np.zeros(len(shares), dtype=np.int64)
    pattern: list[int] = []
    for lanes in range(1, total + 1):
        # Each lane goes to the source that is furthest behind its share (largest remainder).
        behind = shares * lanes - given * total
        pattern.append(int(behind.argmax()))
        given[pattern[-1]] += 1
    return np.array(pattern, dtype=np.int64)
