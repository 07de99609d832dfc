"""Rates: how often an epoch visits each pair of a tar. They generalise a selection.

0 leaves a pair out, 1 is once an epoch, 0.25 once in four epochs, 3 three times an epoch. The rates
of all shards lie in one file `NAME.rates` beside the manifest: a float16 (little-endian) for each
pair of a tar, in the order of the pairs' sorted keys. So a rate is stored within 0.05 %; below
0.00006 within 0.00000003. 700 M pairs take 1.4 GB.

Every float16 is a whole number of units of 2^-24. All that follows from rates is computed in these,
so that every machine finds the same visits. `stream/shard_visits.py` says which pair a visit shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.selection import Selection

UNIT_BITS = 24
MOST = 1024.0  # visits of a pair in an epoch; the sum over a shard's pairs must fit 64 bits

# Two bytes a pair; of a fixed byte order, as the file may be read on another machine.
_DTYPE = np.dtype("<f2")

RateArray = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Rates(Selection):
    """The rates of one tar's pairs. As a selection it keeps the pairs with a rate above 0.

    Attributes:
        used: How many pairs have a rate above 0.
        visits: How often an epoch visits the shard: `visits_of` the rates.
    """

    used: int
    visits: int

    @property
    def size(self) -> int:
        """Bytes of this tar's rates."""
        return self.of * _DTYPE.itemsize

    def read(self, cache: ShardCache) -> NDArray[np.bool_]:
        """Reads which pairs are used, in the order of the sorted keys, `[of]`."""
        return self.rates(cache) > 0

    def rates(self, cache: ShardCache) -> RateArray:
        """Reads the rates.

        Args:
            cache: Fetches the file if it is remote.

        Returns:
            The rate of each pair, in the order of the sorted keys, `[of]`.

        Raises:
            UserError: The file cannot be read, or is not the one that the manifest was made with.
        """
        rates = np.frombuffer(self.data(cache), dtype=_DTYPE)
        # A comparison with NaN is false, so that NaN is refused too.
        are_rates = bool(((rates >= 0) & (rates <= MOST)).all())
        if not are_rates or (rates > 0).sum() != self.used or visits_of(rates) != self.visits:
            raise UserError(
                f"{self.file}: the rates at {self.at} are not those of the manifest: expected "
                f"numbers from 0 to {MOST:g}, {self.used} above 0, with a sum of {self.visits}; "
                f"make it anew"
            )
        return rates


def units_of(rates: RateArray) -> NDArray[np.int64]:
    """The rates in units of 2^-24, exactly."""
    units: NDArray[np.int64] = np.ldexp(rates.astype(np.float64), UNIT_BITS).astype(np.int64)
    return units


def rounded(rates: NDArray[np.floating]) -> RateArray:
    """Rounds rates to float16; one above 0 stays above 0.

    Raises:
        ValueError: One is negative, above `MOST`, or not a number.
    """
    if not ((rates >= 0) & (rates <= MOST)).all():
        raise ValueError(f"rates: expected numbers from 0 to {MOST:g}")
    # float16's smallest number above 0: rounded to 0, a pair would never come again.
    least = 2.0**-UNIT_BITS
    return np.where(rates > 0, np.maximum(rates, least), 0).astype(_DTYPE)


def visits_of(rates: RateArray) -> int:
    """How often an epoch visits a shard: the sum of its rates, rounded; 0 only if all are 0.

    An order needs the same number in every epoch. The rates are scaled to it; a shard whose rates
    sum up to less than a half is visited once all the same, or its pairs would never come.
    """
    total = int(units_of(rates).sum())
    # In whole numbers: a sum of floats depends on the order in which it is added up.
    half = 1 << (UNIT_BITS - 1)
    return max((total + half) >> UNIT_BITS, int(total > 0))


def scale_of(rates: RateArray) -> float:
    """The factor by which an epoch's visits differ from the rates: near 1 but in tiny shards."""
    total = int(units_of(rates).sum())
    return visits_of(rates) * (1 << UNIT_BITS) / total if total else 1.0


def rates_name(manifest: str) -> str:
    """The name of the file of rates that belongs to a manifest of that name."""
    return f"{manifest.removesuffix('.jsonl')}.rates"
