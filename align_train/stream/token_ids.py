"""Rows of token ids: how they are padded, and how long they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# What fills a row after its text. No token has this number, so that a mask is `ids >= 0`, whatever
# tokens the tokenizer has: CLIP pads with its end token, and 0 may be a real one.
PAD = -1

# Rows are padded to a multiple of it: few distinct shapes, and tensor cores like it.
_ROUND_UP_TO = 8


def padded(longest: int, *, most: int) -> int:
    """Returns the width of rows whose longest text has so many tokens.

    Args:
        longest: Tokens of the longest text.
        most: The greatest width.

    Returns:
        A multiple of 8, or `most`.
    """
    return min(most, -(-longest // _ROUND_UP_TO) * _ROUND_UP_TO)


def lengths_of(ids: NDArray[np.int32]) -> NDArray[np.int64]:
    """Returns the tokens of each row: int64 `[rows]`.

    Args:
        ids: int32 `[rows, width]`.
    """
    lengths: NDArray[np.int64] = np.count_nonzero(ids != PAD, axis=1)
    return lengths
