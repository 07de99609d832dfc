"""Pairs that are made in no time, whose pixels and texts follow from their places.

A loader's workers are then always as far ahead as they may be.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from align_train.errors import UserError
from align_train.stream.decode import Pixels
from align_train.stream.order import Order
from align_train.stream.pieces import Piece, TrainingPieces
from align_train.stream.recipe import Start
from align_train.stream.replacement import BadPair, Gone
from align_train.stream.token_ids import PAD, lengths_of


class DrawnPieces:
    """In the place of `TrainingPieces`.

    `gone`: steps that need vanished shards, to these shards. `fails_at`: a step that raises.
    """

    def __init__(
        self, *, size: int = 8, gone: dict[int, int] | None = None, fails_at: int | None = None
    ) -> None:
        self.size = size
        self.gone = gone or {}
        self.fails_at = fails_at
        self.order: Order | None = None  # not None after a drop
        self.teacher = None
        self.start = Start()

    def shape(self, count: int) -> tuple[int, int, int, int]:
        return count, self.size, self.size, 3

    def make(self, finished_steps: int, slots: range, pixels: Pixels) -> Piece | Gone:
        if finished_steps == self.fails_at:
            raise UserError("data.shards=here: broken; mend it")
        if self.order is None and finished_steps in self.gone:
            pixels[...] = 0
            return Gone(self.gone[finished_steps])

        for row, slot in enumerate(slots):
            pixels[row] = pixels_of(finished_steps, slot)
        # Texts of 3 to 27 tokens.
        lengths = [3 + (finished_steps * 7 + slot) % 25 for slot in slots]
        ids = np.full((len(slots), -(-max(lengths) // 8) * 8), PAD, dtype=np.int32)
        for row, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
            ids[row, :length] = 1 + slot

        keys = [f"{finished_steps}/{slot}" for slot in slots]
        bad = [BadPair(finished_steps + 1, f"bad {key}", "odd", key) for key in keys[:1]]
        return Piece(
            input_ids=ids,
            lengths=lengths_of(ids),
            keys=keys,
            captions=[f"the text of {key}" for key in keys],
            content_ids=np.array([list(slots), list(slots)]),
            bad_pairs=bad,
        )

    def as_pieces(self) -> TrainingPieces:
        return cast(TrainingPieces, self)


def pixels_of(finished_steps: int, slot: int) -> int:
    """The value of all of a pair's pixels, never 0; those of near steps and slots differ."""
    return 1 + (finished_steps * 89 + slot * 7) % 251
