"""Which pair of a shard each visit of an epoch shows, if the shard has rates (`shards/rates.py`).

The order counts visits: a shard has V *slots* in every epoch, the sum of its rates. So the order
knows nothing of rates, and costs the same. Here a slot becomes a pair, where the shard is read.

The rule is systematic sampling. The shard's pairs lie end to end on a line, in a hashed order, each
as long as its rate. V points lie on the line at equal distances; slot j shows the pair on which
point j lies. So in each epoch a pair comes its rate, rounded down or up. All points are moved by an
offset that goes on by the golden ratio from epoch to epoch: over many epochs a pair's visits stay
within a few of epochs x rate, closer than chance would bring them.

All is computed in integers, from (seed, shard, epoch, slot) and the shard's own rates. Two pairs
that are neighbours on the line, and whose rates sum up to less than 1, never come in the same
epoch: the price of visits that keep so near to their rates.

Price (`benchmarks/order`): a shard of 9,400 pairs takes 1 ms when it is opened, and 225 kB while it
is open; a slot takes about 10 microseconds, beside a millisecond or more to decode the image.
"""

from __future__ import annotations

import numpy as np

from align_train.shards.rates import RateArray, units_of, visits_of
from align_train.stream.permutation import Integers, Salt, hash_words

_WORD_BITS = 64
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio


class ShardVisits:
    """The visits of one shard: from (epoch, slot) to a pair, and back."""

    def __init__(self, rates: RateArray, *, seed: int, shard: int) -> None:
        """Lays the pairs on the line.

        Args:
            rates: The rates of the pairs that are used, all above 0, `[pairs]`.
            seed: The order's.
            shard: The shard's index in the manifest.
        """
        self.visits = visits_of(rates)
        hashes = hash_words(seed, Salt.RATES, shard, np.arange(len(rates)))
        # Stable: equal hashes keep the pairs' order on every machine.
        self._pairs = np.argsort(hashes, kind="stable")
        self._ends = np.cumsum(units_of(rates)[self._pairs])
        self._length = int(self._ends[-1])
        self._start = int(hash_words(seed, Salt.RATES_OFFSET, shard)[0])

    def pairs_at(self, epoch: int, slots: Integers) -> Integers:
        """Returns the pairs that slots of an epoch show.

        Args:
            epoch: The epoch of the shard's source.
            slots: `[n]`, from 0 to below `visits`.

        Returns:
            `[n]`, indices of used pairs in the order of their sorted keys.
        """
        # Point j lies at (j x length + offset) / visits, rounded down. The division comes first:
        # the product would not fit 64 bits.
        step, rest = divmod(self._length, self.visits)
        points = slots * step + (slots * rest + self._offset(epoch)) // self.visits
        return self._pairs[np.searchsorted(self._ends, points, side="right")]

    def slots_of(self, epoch: int, pair: int) -> range:
        """Returns the slots that show a pair in an epoch: `pairs_at`, backwards."""
        place = int(np.flatnonzero(self._pairs == pair)[0])
        begin = int(self._ends[place - 1]) if place else 0
        end = int(self._ends[place])
        return range(self._first_slot(epoch, begin), self._first_slot(epoch, end))

    def _first_slot(self, epoch: int, point: int) -> int:
        """The first slot whose point does not lie before a place on the line."""
        return -((self._offset(epoch) - point * self.visits) // self._length)

    def _offset(self, epoch: int) -> int:
        """How far an epoch's points are moved, from 0 to below the line's length."""
        word = (self._start + epoch * _GOLDEN) % (1 << _WORD_BITS)
        return word * self._length >> _WORD_BITS
