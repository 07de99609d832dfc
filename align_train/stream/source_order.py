"""The order of one source: epoch after epoch, over its lanes.

Four steps lead from (lane, position) to a pair. Each is a pure function of (seed, epoch):

1. Permute the shards, and lay their pairs end to end.
2. Rotate that row by a hash. The end of the row does not fill a position in every lane and is
   skipped; the rotation skips other pairs in each epoch.
3. Cut the row into equal lanes.
4. Permute each lane's pairs within windows that span a few shards.

Data that fits into lanes x window pairs is one window over the whole epoch: steps 2 to 4 become one
permutation of all pairs.

A shard that vanished in mid-run keeps its place in the row, so that nothing else moves. The next
shard of the epoch stands in for it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from align_train.errors import UserError
from align_train.stream.permutation import Integers, Salt, hash_words, permute

_EPOCHS_KEPT = 4  # shard permutations in memory: three int64 a shard each


@dataclass(frozen=True)
class Visits:
    """The pairs at some slots of the order, element by element.

    Attributes:
        epoch: `[n]`, the epoch of the pair's source.
        shard: `[n]`, the shard's index in the manifest.
        pair: `[n]`, the pair's index in the shard; of a shard with rates the slot of the visit,
            which `shard_visits.py` makes a pair of.
    """

    epoch: Integers
    shard: Integers
    pair: Integers

    def __len__(self) -> int:
        return len(self.epoch)


@dataclass(frozen=True)
class Window:
    """A stretch of a lane within which pairs are shuffled.

    Attributes:
        first: The position in the lane at which the window begins.
        last: The position at which it ends (exclusive).
        shards: The shards that hold its pairs, as indices in the manifest.
        begins: The position at which each shard's pairs would begin if nothing were shuffled.
    """

    first: int
    last: int
    shards: tuple[int, ...]
    begins: tuple[int, ...]


@dataclass(frozen=True)
class _Row:
    """An epoch's shards, their pairs laid end to end.

    Attributes:
        shards: `[shards]`, the epoch's permutation of the source's shards.
        ends: `[shards]`, the place in the row at which each of them ends (exclusive).
        stand_ins: `[shards]`, the shard that is read for each of them: itself, unless it vanished.
        rotation: The place in the row at which the first lane begins.
    """

    shards: Integers
    ends: Integers
    stand_ins: Integers
    rotation: int


class SourceOrder:
    """The order of one source's pairs: see the module's docstring."""

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
        """Computes no epoch yet.

        Args:
            counts: `[shards]`, the pairs of each shard.
            seed: Chooses among all orders.
            lanes: The source's share of the order's lanes.
            window: Pairs of a lane that are shuffled among each other.
            first_shard: The index, in the manifest, of the source's first shard.
            dropped: Shards that have vanished, as indices in the manifest.

        Raises:
            UserError: There are fewer pairs than lanes, or no shard is left.
        """
        self.counts = counts
        self.seed = seed
        self.lanes = lanes
        self.window = window
        self.first_shard = first_shard
        self.gone = np.zeros(len(counts), dtype=bool)
        self.gone[[shard - first_shard for shard in dropped]] = True

        self.pairs = int(counts.sum())
        self.lane_length = self.pairs // lanes
        self.whole_epoch = self.pairs <= lanes * window
        if self.lane_length == 0:
            raise UserError(
                f"data.lanes: {self.pairs} pairs cannot fill {lanes} lanes; set data.lanes to at "
                f"most {max(1, self.pairs)}"
            )
        if not counts[~self.gone].any():
            raise UserError("data.shards: every shard has vanished; bring them back")

        # A batch may lie across two epochs, and `show` looks at several.
        self._row = lru_cache(maxsize=_EPOCHS_KEPT)(self._lay_end_to_end)

    @property
    def epoch_pairs(self) -> int:
        """Pairs visited in an epoch: all but a remainder of fewer than `lanes`."""
        return self.lane_length * self.lanes

    def at(self, lane: Integers, position: Integers) -> Visits:
        """Returns the pairs at positions of lanes.

        Args:
            lane: `[n]`, from 0 to below `lanes`.
            position: `[n]`, counted from the lane's first pair on, through all epochs.
        """
        epochs = position // self.lane_length
        offset = position % self.lane_length
        shard = np.empty_like(offset)
        pair = np.empty_like(offset)

        # One epoch nearly always, two at an epoch's end.
        first, last = (int(epochs.min()), int(epochs.max())) if len(epochs) else (0, -1)
        for epoch in range(first, last + 1):
            here = epochs == epoch
            row = self._row(epoch)
            place = self._place_in_row(epoch, lane[here], offset[here])

            slot = np.searchsorted(row.ends, place, side="right")
            begin = row.ends[slot] - self.counts[row.shards[slot]]
            shard[here] = row.stand_ins[slot]
            # A stand-in may have fewer pairs: it begins again.
            pair[here] = (place - begin) % self.counts[row.stand_ins[slot]]

        return Visits(epoch=epochs, shard=shard + self.first_shard, pair=pair)

    def find(self, shard: int, pair: int, epoch: int) -> tuple[int, int] | None:
        """Returns the (lane, position) at which a pair comes in an epoch: `at`, backwards.

        None: the epoch skips the pair, or its shard has vanished.
        """
        # A pair that also stands in for another one is found at its own place only.
        own_shard = shard - self.first_shard
        if self.gone[own_shard]:
            return None

        row = self._row(epoch)
        slot = int(np.flatnonzero(row.shards == own_shard)[0])
        place = np.array([row.ends[slot] - self.counts[own_shard] + pair])

        if self.whole_epoch:
            key = hash_words(self.seed, epoch, Salt.WHOLE_EPOCH)
            point = permute(place, np.array([self.pairs]), key, backwards=True)
        else:
            point = (place - row.rotation) % self.pairs
        if point[0] >= self.epoch_pairs:
            return None

        lane = point // self.lane_length
        offset = point % self.lane_length
        if not self.whole_epoch:
            start, length, window = self._window(lane, offset)
            key = hash_words(self.seed, epoch, Salt.WINDOW, lane, window)
            offset = start + permute(offset - start, length, key, backwards=True)
        return int(lane[0]), epoch * self.lane_length + int(offset[0])

    def window_at(self, lane: int, position: int) -> Window:
        """Returns the window around a position of a lane: the whole epoch if the data is small."""
        epoch, offset = divmod(position, self.lane_length)
        first = epoch * self.lane_length
        row = self._row(epoch)
        if self.whole_epoch:
            # A selection may leave a shard without a pair: nobody reads it.
            slots = np.flatnonzero(self.counts[row.shards])
            places = row.ends[slots] - self.counts[row.shards[slots]]
            begins = first + places * self.lane_length // self.pairs
            return self._window_of(first, self.lane_length, row.stand_ins[slots], begins)

        starts, lengths, _ = self._window(np.array([lane]), np.array([offset]))
        start = int(starts[0])
        length = int(lengths[0])

        # A window is contiguous in the row, but for the row's end: from there it goes on at the
        # beginning.
        begin = lane * self.lane_length + start + row.rotation
        ends = np.array([begin, begin + length - 1]) % self.pairs
        low, high = np.searchsorted(row.ends, ends, side="right")
        if ends[0] <= ends[1]:
            slots = np.arange(low, high + 1)
        else:
            slots = np.r_[low : len(row.shards), 0 : high + 1]

        slots = slots[self.counts[row.shards[slots]] > 0]
        until = np.cumsum(self.counts[row.shards[slots]])
        # The first shard may have begun before the window.
        places = np.append(0, until[:-1] - (until[0] - row.ends[low] + ends[0]))
        begins = first + start + places
        return self._window_of(first + start, length, row.stand_ins[slots], begins)

    def neighbour(self, shard: int, epoch: int) -> int:
        """Returns the next shard, in an epoch's order, that has pairs; the same one if it is alone.

        Args:
            shard: Index in the manifest, as is the result.
            epoch: The epoch.
        """
        shards = self._row(epoch).shards
        slot = int(np.flatnonzero(shards == shard - self.first_shard)[0])
        # The shard itself comes last.
        following = np.roll(shards, -slot - 1)
        usable = following[(self.counts[following] > 0) & ~self.gone[following]]
        return int(usable[0]) + self.first_shard

    def _window_of(self, first: int, length: int, shards: Integers, begins: Integers) -> Window:
        # Each shard once, where it comes first: a stand-in may come twice.
        places: dict[int, int] = {}
        for shard, begin in zip(shards.tolist(), begins.tolist(), strict=True):
            places.setdefault(shard + self.first_shard, begin)
        return Window(first, first + length, tuple(places), tuple(places.values()))

    def _lay_end_to_end(self, epoch: int) -> _Row:
        indices = np.arange(len(self.counts))
        # Stable: shards of equal hashes keep the manifest's order on every machine.
        shards = np.argsort(hash_words(self.seed, epoch, Salt.SHARDS, indices), kind="stable")

        stand_ins = shards
        if self.gone.any():
            usable = np.flatnonzero(~self.gone[shards] & (self.counts[shards] > 0))
            following = usable[np.searchsorted(usable, indices) % len(usable)]
            # Slots whose own shard is there keep it: nothing else moves.
            stand_ins = np.where(self.gone[shards], shards[following], shards)
        rotation = int(hash_words(self.seed, epoch, Salt.ROTATION)[0] % np.uint64(self.pairs))
        return _Row(
            shards=shards,
            ends=np.cumsum(self.counts[shards]),
            stand_ins=stand_ins,
            rotation=rotation,
        )

    def _window(self, lane: Integers, offset: Integers) -> tuple[Integers, Integers, Integers]:
        """Returns each offset's window: its start (an offset in the lane), length and index.

        Each lane's first window is cut short by another amount. Otherwise all lanes would need new
        shards at once, and the network would see a burst.
        """
        first = np.maximum(self.window * (lane + 1) // self.lanes, 1)
        index = np.where(offset < first, 0, (offset - first) // self.window + 1)
        start = np.where(index == 0, 0, first + (index - 1) * self.window)
        length = np.where(index == 0, first, self.window)
        # The lane's last window ends with the lane.
        return start, np.minimum(length, self.lane_length - start), index

    def _place_in_row(self, epoch: int, lane: Integers, offset: Integers) -> Integers:
        """Returns the places, in the epoch's row of pairs, of offsets in lanes."""
        if self.whole_epoch:
            key = np.broadcast_to(hash_words(self.seed, epoch, Salt.WHOLE_EPOCH), offset.shape)
            points = lane * self.lane_length + offset
            return permute(points, np.full_like(offset, self.pairs), key)

        start, length, window = self._window(lane, offset)
        key = hash_words(self.seed, epoch, Salt.WINDOW, lane, window)
        within = start + permute(offset - start, length, key)
        return (lane * self.lane_length + within + self._row(epoch).rotation) % self.pairs
