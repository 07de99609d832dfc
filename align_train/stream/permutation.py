from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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


def _absorb(state: Words, word: Words) -> Words:
    return _mix((state + _GOLDEN) ^ _mix(word + _GOLDEN))


def hash_words(*parts: int | Integers | Words) -> Words:
    """One 64-bit word per element from integers or arrays of them (broadcast against each other)."""
    with np.errstate(over="ignore"):
        state = np.zeros(1, dtype=np.uint64)
        for part in parts:
            state = _absorb(state, np.atleast_1d(np.asarray(part)).astype(np.uint64))
        return state


def permute(points: Integers, size: Integers, key: Words, *, backwards: bool = False) -> Integers:
    """Point i of a permutation of `range(size)` chosen by `key`, element by element; 0 <= points < size.

    backwards: the point that the permutation sends to i.
    """
    exponent = np.frexp(np.maximum(size - 1, 1).astype(np.float64))[1]  # bits that hold size - 1
    bits = np.maximum(exponent, _LEAST_BITS).astype(np.uint64)
    low = bits >> np.uint64(1)
    one = np.uint64(1)
    result = points.astype(np.uint64)
    size_word = size.astype(np.uint64)
    rounds = range(_ROUNDS)
    with np.errstate(over="ignore"):
        keyed = _absorb(np.zeros(1, dtype=np.uint64), key)
        active = np.arange(len(result))
        while len(
            active
        ):  # cycle walking: apply again until the point falls into range(size); at most ~2 times on average
            state, shift = keyed[active], low[active]
            low_mask, high_mask = (one << shift) - one, (one << (bits[active] - shift)) - one
            left, right = result[active] >> shift, result[active] & low_mask
            for number in reversed(rounds) if backwards else rounds:
                mixed_number = _mix(np.array([number], dtype=np.uint64) + _GOLDEN)
                if number % 2 == 0:
                    right = right ^ (
                        _mix((_absorb(state, left) + _GOLDEN) ^ mixed_number) & low_mask
                    )
                else:
                    left = left ^ (
                        _mix((_absorb(state, right) + _GOLDEN) ^ mixed_number) & high_mask
                    )
            result[active] = (left << shift) | right
            active = active[result[active] >= size_word[active]]
    return result.astype(np.int64)
