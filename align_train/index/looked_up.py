"""Scores of pairs looked up by key, never by place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.bytes_]
Floats = NDArray[np.float32]


def looked_up(keys: Keys, scored: Keys, values: Floats) -> Floats:
    """The value of each key; NaN for a key without one.

    Args:
        keys: `[rows]`.
        scored: The keys that have values, `[scored]`.
        values: `[scored]`.
    """
    # Also of pairs with the same key, of which each has its own value then.
    if np.array_equal(keys, scored):
        return values

    # Stable: of equal keys the first one stays first, which is the one that counts.
    order = np.argsort(scored, kind="stable")
    in_order = scored[order]
    at = np.searchsorted(in_order, keys).clip(0, max(0, len(scored) - 1))
    found = np.full(len(keys), np.nan, dtype=np.float32)
    if len(scored):
        # A later pair with the same key gets no value.
        is_first = np.zeros(len(keys), dtype=bool)
        is_first[np.unique(keys, return_index=True)[1]] = True
        is_there = (in_order[at] == keys) & is_first
        found[is_there] = values[order[at[is_there]]]
    return found
