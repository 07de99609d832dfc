"""Which pair stands where: a pure function of (manifest, seed, position), without I/O and without state.

The order is L equal *lanes*. Global batch by global batch, lane l gives its next `batch_size / L` pairs; a global batch is
laid out lane by lane. Epoch e permutes the shards by (seed, e), lays their pairs end to end, rotates them by a hash of
(seed, e), and cuts them into L equal lanes; inside a lane, pairs are permuted within windows that span a few shards. Data
that fits into lanes × window pairs is one window over the whole epoch. In an epoch each pair comes exactly once, but for a
remainder of fewer than L pairs, which the rotation (or the permutation) moves about from epoch to epoch.

Several sources (coyo 3 : cc12m 1) share the lanes in whole: of every 4 neighbouring lanes 3 are coyo's. Each source is such
an order of its own, with epochs of its own, over its own lanes.

The permutation is a keyed bijection that is evaluated point by point (a Feistel network on our own integer hash, with cycle
walking), so any position costs the same, whatever came before, and it can be asked backwards: when does this pair come?
NumPy's generators are not used: their streams may change between versions, and then so would the order.

Price (`benchmarks/order.py`, 75,000 shards, 700 M pairs, one core): about 2 ms for 16,384 points and 5 ms more for the first
of an epoch, which sorts the shards; building an order takes less than 1 ms. Three arrays of int64 per shard are kept for each
of the last 4 epochs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import gcd

import numpy as np

from align_train.errors import UserError
from align_train.stream.permutation import Integers, hash_words, permute


@dataclass(frozen=True)
class Visits:
    """Where some slots of the order lead, element by element: the epoch, the shard's number in the manifest, the pair in it."""

    epoch: Integers
    shard: Integers
    pair: Integers

    def __len__(self) -> int:
        return len(self.epoch)


@dataclass(frozen=True)
class Window:
    """A stretch of a lane, positions first to last (exclusive), whose pairs lie in `shards` (numbers in the manifest)."""

    first: int
    last: int
    shards: tuple[int, ...]


class SourceOrder:
    """The order of all epochs of one source over its lanes. first_shard: what its shards' numbers begin with.

    dropped: shards that have vanished: the next one in the epoch's order stands in for each, and nothing else moves.
    """

    def __init__(
        self,
        *,
        counts: Integers,
        seed: int,
        lanes: int,
        window: int,
        first_shard: int = 0,
        dropped: Collection[int] = (),
    ) -> None:
        self.counts, self.seed, self.lanes, self.window = counts, seed, lanes, window
        self.first_shard = first_shard
        self.gone = np.zeros(len(counts), dtype=bool)
        self.gone[[shard - first_shard for shard in dropped]] = True
        self.pairs = int(counts.sum())
        self.lane_length = self.pairs // lanes
        self.whole_epoch = self.pairs <= lanes * window
        if self.lane_length == 0:
            raise UserError(
                f"data.lanes: {self.pairs} pairs cannot fill {lanes} lanes; set data.lanes to at most {max(1, self.pairs)}"
            )
        if not counts[~self.gone].any():
            raise UserError("data.shards: every shard has vanished; bring them back")
        self._layout = lru_cache(maxsize=4)(self._lay_out_epoch)

    @property
    def epoch_pairs(self) -> int:
        """Pairs visited in an epoch: all but a remainder of fewer than `lanes`."""
        return self.lane_length * self.lanes

    def at(self, lane: Integers, position: Integers) -> Visits:
        """The pairs at positions of lanes; a position counts on through all epochs."""
        epoch = position // self.lane_length
        offset = position % self.lane_length
        shard, pair = np.empty_like(offset), np.empty_like(offset)
        for number in range(int(epoch.min()), int(epoch.max()) + 1) if len(epoch) else ():
            here = epoch == number
            laid = self._place_in_epoch(number, lane[here], offset[here])
            order, ends, stand_in = self._layout(number)
            slot = np.searchsorted(ends, laid, side="right")
            in_shard = laid - (ends[slot] - self.counts[order[slot]])
            shard[here] = order[stand_in[slot]]
            pair[here] = in_shard % self.counts[order[stand_in[slot]]]
        return Visits(epoch=epoch, shard=shard + self.first_shard, pair=pair)

    def find(self, shard: int, pair: int, epoch: int) -> tuple[int, int] | None:
        """The (lane, position) where a pair comes in an epoch; None where it is in the epoch's remainder or dropped."""
        number = shard - self.first_shard
        if self.gone[number]:
            return None
        order, ends, _ = self._layout(epoch)
        slot = int(np.flatnonzero(order == number)[0])
        laid = np.array([ends[slot] - self.counts[number] + pair])
        size = np.array([self.pairs])
        if self.whole_epoch:
            place = permute(laid, size, hash_words(self.seed, epoch, 2), backwards=True)
            if place[0] >= self.epoch_pairs:
                return None
            return int(place[0]) // self.lane_length, epoch * self.lane_length + int(
                place[0]
            ) % self.lane_length
        place = (laid - self._rotation(epoch)) % self.pairs
        if place[0] >= self.epoch_pairs:
            return None
        lane, offset = place // self.lane_length, place % self.lane_length
        start, length, window = self._window(lane, offset)
        key = hash_words(self.seed, epoch, 3, lane, window)
        within = start + permute(offset - start, length, key, backwards=True)
        return int(lane[0]), epoch * self.lane_length + int(within[0])

    def window_at(self, lane: int, position: int) -> Window:
        """The window that a position of a lane lies in; over a whole epoch where the data is small enough."""
        epoch, offset = divmod(position, self.lane_length)
        first = epoch * self.lane_length
        order, ends, stand_in = self._layout(epoch)
        if self.whole_epoch:
            slots = np.flatnonzero(self.counts[order])
            return Window(first, first + self.lane_length, self._named(order[stand_in[slots]]))
        start, length, _ = (
            int(value[0]) for value in self._window(np.array([lane]), np.array([offset]))
        )
        begin = lane * self.lane_length + start + self._rotation(epoch)
        laid = np.array([begin, begin + length - 1]) % self.pairs
        low, high = np.searchsorted(ends, laid, side="right")
        # From the first pair's shard to the last's, on past the end of the layout to its beginning.
        slots = (
            np.arange(low, high + 1)
            if laid[0] <= laid[1]
            else np.r_[low : len(order), 0 : high + 1]
        )
        slots = slots[self.counts[order[slots]] > 0]
        return Window(first + start, first + start + length, self._named(order[stand_in[slots]]))

    def neighbour(self, shard: int, epoch: int) -> int:
        """The shard with pairs that follows a shard in an epoch's order; itself where there is no other."""
        order, _, _ = self._layout(epoch)
        slot = int(np.flatnonzero(order == shard - self.first_shard)[0])
        following = np.roll(order, -slot - 1)
        return (
            int(following[(self.counts[following] > 0) & ~self.gone[following]][0])
            + self.first_shard
        )

    def _named(self, shards: Integers) -> tuple[int, ...]:
        return tuple(dict.fromkeys((shards + self.first_shard).tolist()))

    def _lay_out_epoch(self, epoch: int) -> tuple[Integers, Integers, Integers]:
        """The epoch's permutation of the shards, where each ends when their pairs are laid end to end, and which slot of the
        permutation stands in for each (itself, unless its shard has vanished)."""
        order = np.argsort(
            hash_words(self.seed, epoch, 1, np.arange(len(self.counts))), kind="stable"
        )
        slots = np.arange(len(order))
        if self.gone.any():
            there = np.flatnonzero(~self.gone[order] & (self.counts[order] > 0))
            following = there[np.searchsorted(there, slots) % len(there)]
            slots = np.where(self.gone[order], following, slots)
        return order, np.cumsum(self.counts[order]), slots

    def _rotation(self, epoch: int) -> int:
        return int(hash_words(self.seed, epoch, 4)[0] % np.uint64(self.pairs))

    def _window(self, lane: Integers, offset: Integers) -> tuple[Integers, Integers, Integers]:
        """Start and length (offsets in the lane) of the windows that offsets lie in, and the windows' numbers.

        The first window of each lane is cut short by a different amount: or all lanes would want new shards at once.
        """
        first = np.maximum(self.window * (lane + 1) // self.lanes, 1)
        window = np.where(offset < first, 0, (offset - first) // self.window + 1)
        start = np.where(window == 0, 0, first + (window - 1) * self.window)
        length = np.where(window == 0, first, self.window)
        return start, np.minimum(length, self.lane_length - start), window

    def _place_in_epoch(self, epoch: int, lane: Integers, offset: Integers) -> Integers:
        """Lane and offset -> place among the epoch's pairs laid end to end."""
        if self.whole_epoch:
            key = np.broadcast_to(hash_words(self.seed, epoch, 2), offset.shape)
            return permute(lane * self.lane_length + offset, np.full_like(offset, self.pairs), key)
        start, size, window = self._window(lane, offset)
        key = hash_words(self.seed, epoch, 3, lane, window)
        within = start + permute(offset - start, size, key)
        return (lane * self.lane_length + within + self._rotation(epoch)) % self.pairs


class Order:
    """The order of a run's pairs.

    counts: pairs of each shard, in the manifest's order.
    lanes: L; it divides every batch size and is divided by every world size that the order shall serve.
    window: pairs of a lane that are shuffled among each other.
    sources: how many of the shards each source has, in the manifest's order; None: all are one source's.
    weights: shares of the sources in every batch, as whole numbers whose sum (in lowest terms) divides the lanes.
    dropped: numbers of shards that have vanished.
    """

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
        self.counts = np.asarray(counts, dtype=np.int64)
        self.seed, self.lanes, self.window = seed, lanes, window
        self.pattern = lane_pattern(weights)
        self.dropped = frozenset(dropped)
        if lanes % len(self.pattern):
            raise UserError(
                f"data.lanes={lanes} cannot be shared out as data.weights={list(weights)}; take a multiple of "
                f"{len(self.pattern)} that divides the batch"
            )
        bounds = np.cumsum([0, *(sources or [len(self.counts)])]).tolist()
        self.sources = []
        for number, (first, last) in enumerate(pairwise(bounds)):
            own = SourceOrder(
                counts=self.counts[first:last],
                seed=seed if number == 0 else int(hash_words(seed, 6, number)[0]),
                lanes=lanes // len(self.pattern) * int((self.pattern == number).sum()),
                window=window,
                first_shard=first,
                dropped=[shard for shard in dropped if first <= shard < last],
            )
            self.sources.append(own)
        # Lane l is its source's lane `_own_lane[l]`: neighbouring lanes stay neighbours, so a node's share stays contiguous.
        self._source_of_lane: Integers = np.tile(self.pattern, lanes // len(self.pattern))
        self._own_lane = np.zeros(lanes, dtype=np.int64)
        for number in range(len(self.sources)):
            mine = self._source_of_lane == number
            self._own_lane[mine] = np.arange(mine.sum())

    def source_of(self, shard: int) -> SourceOrder:
        return next(source for source in reversed(self.sources) if shard >= source.first_shard)

    def global_batch(self, cursor: int, batch_size: int, slots: Integers) -> Visits:
        """Slots (numbers in `range(batch_size)`) of the global batch that begins after `cursor` consumed pairs."""
        per_lane = batch_size // self.lanes
        return self.at(slots // per_lane, cursor // self.lanes + slots % per_lane)

    def at(self, lane: Integers, position: Integers) -> Visits:
        """The pairs at positions of lanes; a position counts on through all epochs."""
        if len(self.sources) == 1:
            return self.sources[0].at(lane, position)
        visits = Visits(*(np.empty_like(position) for _ in range(3)))
        for number, source in enumerate(self.sources):
            mine = self._source_of_lane[lane] == number
            found = source.at(self._own_lane[lane[mine]], position[mine])
            visits.epoch[mine], visits.shard[mine], visits.pair[mine] = (
                found.epoch,
                found.shard,
                found.pair,
            )
        return visits

    def window_at(self, lane: int, position: int) -> Window:
        """The window of pairs that a position of a lane is drawn from."""
        return self.sources[int(self._source_of_lane[lane])].window_at(
            int(self._own_lane[lane]), position
        )

    def find(self, shard: int, pair: int, epoch: int) -> tuple[int, int] | None:
        """The (lane, position) where a pair comes in an epoch of its source; None where it does not."""
        source = self.source_of(shard)
        found = source.find(shard, pair, epoch)
        if found is None:
            return None
        mine = np.flatnonzero(self._source_of_lane == self.sources.index(source))
        return int(mine[found[0]]), found[1]

    def neighbour(self, shard: int, epoch: int) -> int:
        """The shard whose pairs take the place of those of a shard that holds none that are good."""
        return self.source_of(shard).neighbour(shard, epoch)

    def next_epoch(self, cursor: int) -> int:
        """The least cursor, not below this one, at which the (first) source begins an epoch."""
        length = self.sources[0].lane_length * self.lanes
        return -(-cursor // length) * length


def lane_pattern(weights: Sequence[int]) -> Integers:
    """The source of each of the least number of neighbouring lanes that hold the sources by their weights: 3 : 1 -> 0 0 0 1.

    The sources are spread, not stacked (largest remainder first), so that any cut of the lanes holds about the shares.
    """
    if not weights or min(weights) < 1:
        raise UserError(f"data.weights={list(weights)}: expected whole numbers, at least 1")
    least = np.array(weights, dtype=np.int64) // gcd(*weights)
    pattern, given = [], np.zeros(len(least), dtype=np.int64)
    for number in range(1, int(least.sum()) + 1):
        behind = least * number - given * least.sum()
        pattern.append(int(behind.argmax()))
        given[pattern[-1]] += 1
    return np.array(pattern, dtype=np.int64)
