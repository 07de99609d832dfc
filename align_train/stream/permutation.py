"""A shuffle that is computed point by point: the integer hash and the permutation of the order.

NumPy's shuffle needs the whole array, and its generators' streams may change between versions:
the order of a run would change with them. So the order uses a hash of its own (splitmix64's
finaliser) and a *Feistel network* on it: split a point's bits into two halves, and XOR each in turn
with a hash of the other. Every round can be undone, whatever the hash, so the network permutes the
numbers of that many bits. *Cycle walking* makes it a permutation of any `range(size)`: apply the
network again until the point falls into the range.

Price: one point of any permutation costs the same, whatever its size: about 0.2 microseconds.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Words = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, splitmix64's increment
# With an ideal hash four rounds would do (Luby and Rackoff 1988).
_ROUNDS = 6
_LEAST_BITS = 6  # smaller domains have too few Feistel permutations to look random


class Salt(IntEnum):
    """What a hash of the run's seed decides. Two purposes of one number would depend on each other.

    The numbers are part of the order: with another one, a run would see other pairs.
    """

    SHARDS = 1
    WHOLE_EPOCH = 2
    WINDOW = 3
    ROTATION = 4
    VISIT = 5
    SOURCE = 6
    RATES = 7
    RATES_OFFSET = 8


def hash_words(*parts: int | Integers | Words) -> Words:
    """Hashes integers, element by element.

    Args:
        parts: Integers, or arrays of them, which are broadcast against each other.

    Returns:
        One 64-bit word for each element; one word in all if every part is an integer.
    """
    # The arithmetic is modulo 2^64 by intent. NumPy would warn of it for single values.
    with np.errstate(over="ignore"):
        state = np.zeros(1, dtype=np.uint64)
        for part in parts:
            state = _absorb(state, np.atleast_1d(np.asarray(part)).astype(np.uint64))
        return state


def permute(points: Integers, size: Integers, key: Words, *, backwards: bool = False) -> Integers:
    """Sends points through a permutation of `range(size)`, element by element.

    Args:
        points: `[n]`, from 0 to below `size`.
        size: `[n]`, the size of each point's permutation.
        key: `[n]`, which of the permutations is taken.
        backwards: Returns the points that the permutation sends to these.

    Returns:
        `[n]`, from 0 to below `size`.
    """
    # frexp gives the exponent: the bits that hold size - 1. The left half gets the odd bit.
    exponent = np.frexp(np.maximum(size - 1, 1).astype(np.float64))[1]
    bits = np.maximum(exponent, _LEAST_BITS).astype(np.uint64)
    low_bits = bits >> np.uint64(1)

    result = points.astype(np.uint64)
    limit = size.astype(np.uint64)

    with np.errstate(over="ignore"):
        state = _absorb(np.zeros(1, dtype=np.uint64), key)

        # Cycle walking. The network's domain is at most twice the size (for sizes that are not
        # tiny), so a point takes at most two applications on average.
        outside = np.arange(len(result))
        while len(outside):
            result[outside] = _feistel(
                result[outside],
                state[outside],
                low_bits[outside],
                bits[outside],
                backwards=backwards,
            )
            outside = outside[result[outside] >= limit[outside]]

    return result.astype(np.int64)


def _feistel(
    points: Words, state: Words, low_bits: Words, bits: Words, *, backwards: bool
) -> Words:
    """Permutes the numbers of `bits` bits: a keyed Feistel network of two unequal halves."""
    one = np.uint64(1)
    low_mask = (one << low_bits) - one
    high_mask = (one << (bits - low_bits)) - one
    left = points >> low_bits
    right = points & low_mask

    rounds = range(_ROUNDS)
    for number in reversed(rounds) if backwards else rounds:
        round_word = np.array([number], dtype=np.uint64)
        # A round changes one half only, by the other: the same line undoes it.
        if number % 2 == 0:
            right = right ^ (_absorb(_absorb(state, left), round_word) & low_mask)
        else:
            left = left ^ (_absorb(_absorb(state, right), round_word) & high_mask)

    return (left << low_bits) | right


def _absorb(state: Words, word: Words) -> Words:
    return _mix((state + _GOLDEN) ^ _mix(word + _GOLDEN))


def _mix(words: Words) -> Words:
    """splitmix64's finaliser (Steele, Lea, Flood 2014): every input bit moves every output bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
