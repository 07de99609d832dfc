"""What a loader's worker makes of each pair for the run's teacher: token ids, or embeddings.

A teacher may read texts by another tokenizer than its student. Then a worker tokenizes each drawn
text twice, so that the training loop never does. A teacher whose embeddings are stored has an input
of its own (`index/taught.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from align_train.stream.token_ids import PAD
from align_train.stream.vocabulary import TextsToIds


class TeacherInput(Protocol):
    """Makes one array of pairs that were drawn."""

    def make(
        self, pairs: Sequence[tuple[int, bytes]], captions: Sequence[str]
    ) -> NDArray[np.generic]:
        """Makes the input of some pairs; in a worker.

        Args:
            pairs: The shard of each in the manifest, and its key as the tar spells it; of a pair
                that was replaced, those of the pair in its place.
            captions: The texts as drawn.

        Returns:
            `[pairs, …]`.
        """

    def joined(self, parts: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
        """Joins what `make` gave for the pieces of a batch."""

    def blank(self, count: int) -> NDArray[np.generic]:
        """Gives an input of so many pairs that are nobody's."""


class TeacherIds:
    """Token ids by the teacher's own tokenizer."""

    def __init__(self, tokenizer: TextsToIds) -> None:
        """Keeps the tokenizer, which cuts texts to the teacher's length."""
        self.tokenizer = tokenizer

    def make(
        self, pairs: Sequence[tuple[int, bytes]], captions: Sequence[str]
    ) -> NDArray[np.int32]:
        """See `TeacherInput.make`: int32 `[pairs, length]`."""
        return self.tokenizer(captions)

    def joined(self, parts: Sequence[NDArray[np.generic]]) -> NDArray[np.int32]:
        """See `TeacherInput.joined`: padded to the longest."""
        width = max(part.shape[1] for part in parts)
        ids = np.full((sum(map(len, parts)), width), PAD, dtype=np.int32)
        first = 0
        for part in parts:
            ids[first : first + len(part), : part.shape[1]] = part
            first += len(part)
        return ids

    def blank(self, count: int) -> NDArray[np.int32]:
        """See `TeacherInput.blank`."""
        return self.tokenizer([""] * count)
