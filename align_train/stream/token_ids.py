"""Rows of token ids: how they are padded, and how long they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PAD_ID = 0  # BERT's [PAD]; the towers derive the attention mask from it

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
    """Returns the tokens of each row, up to its last one that is not padding: int64 `[rows]`.

    A row without any keeps its width: the index of a classifier's first class is 0 as well.

    Args:
        ids: int32 `[rows, width]`.
    """
    backwards = ids[:, ::-1] != PAD_ID
    lengths: NDArray[np.int64] = ids.shape[1] - backwards.argmax(axis=1)
    return lengths
