"""From the counts of entries to the rate of each pair: MetaCLIP's balancing (arXiv 2309.16671).

An entry that c pairs hold draws each of them with probability p = min(1, t / c), t being the
threshold. MetaCLIP keeps a pair if any of its entries draws it, so the probability is

    rate = 1 - product over its entries of (1 - p).

A pair without an entry has the rate `unmatched`, which is 0 in MetaCLIP; a pair without a text has
0 always. With `most` above 1, pairs of rare entries come more than once an epoch: a pair whose
rarest entry is held by c < t pairs has min(most, t / c) in place of 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .matches import Matches

Floats = NDArray[np.float64]


def probabilities(counts: NDArray[np.int64], threshold: int) -> Floats:
    """The probability with which each entry draws a pair that holds it."""
    # An entry that no pair holds gets any value: it draws nobody, but must not divide by 0.
    return np.minimum(1.0, threshold / np.maximum(counts, 1))


def rates_of(
    matches: Matches,
    counts: NDArray[np.int64],
    *,
    threshold: int,
    most: float = 1.0,
    unmatched: float = 0.0,
) -> Floats:
    """Computes the rates of a shard's pairs.

    Args:
        matches: The entries of its pairs.
        counts: `[entries]`, how many pairs of all shards hold each entry.
        threshold: t.
        most: The largest rate.
        unmatched: The rate of a pair with a text, but without an entry.

    Returns:
        `[pairs]`, as often as each is to come in an epoch.
    """
    pairs = len(matches.counts)
    with np.errstate(divide="ignore"):
        # Of an entry that always draws this is minus infinity, which makes the rate 1.
        logs = np.log1p(-probabilities(counts, threshold))
    # Sums of logarithms in place of products: `log1p` and `expm1` keep the digits of small p.
    misses = np.bincount(matches.pairs, weights=logs[matches.entries], minlength=pairs)
    rates = -np.expm1(misses)

    rarest = np.full(pairs, np.inf)
    # `.at`, because a pair stands there once for each of its entries.
    np.minimum.at(rarest, matches.pairs, counts[matches.entries])
    rates = np.maximum(rates, np.minimum(most, threshold / rarest))

    rates = np.where(matches.counts > 0, rates, unmatched)
    return np.where(matches.has_text, rates, 0.0)
