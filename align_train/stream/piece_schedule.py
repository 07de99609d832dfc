"""A rank's pieces, step by step: which places they fill in the global batch and in the arena.

A *piece* is the pairs that a worker makes at a time (`pieces.py`). The loader hands out the places
in this order, and puts the pieces of a step together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch.utils.data import Dataset, Sampler

from align_train.stream.arena import Arena
from align_train.stream.pieces import Piece, TrainingPieces
from align_train.stream.replacement import Gone

# Pairs that a worker makes at a time. Few, so that all workers share in a batch to its end; enough
# that a message and a call of the tokenizer are little beside decoding.
PIECE = 32


class Place(NamedTuple):
    """The place of a piece.

    Attributes:
        finished_steps: Steps before the one that it belongs to.
        slots: Its places in that step's global batch.
    """

    finished_steps: int
    slots: range


class PieceSchedule(Sampler[Place]):
    """The places of a rank's pieces, step by step, without end. None reaches into the next step."""

    def __init__(self, finished_steps: int, slots: range) -> None:
        """Begins with the first piece of a step.

        Args:
            finished_steps: Steps before that one.
            slots: The rank's places in each global batch.
        """
        self.finished_steps = finished_steps
        self.slots = slots

    def __iter__(self) -> Iterator[Place]:
        finished_steps = self.finished_steps
        while True:
            for start in range(0, len(self.slots), PIECE):
                yield Place(finished_steps, self.slots[start : start + PIECE])
            finished_steps += 1


class PiecesIntoArena(Dataset["Piece | Gone"]):
    """Makes the piece of a place, and writes its pixels to the arena."""

    def __init__(self, pieces: TrainingPieces, arena: Arena, slots: range) -> None:
        """Makes nothing yet.

        Args:
            pieces: Makes pairs.
            arena: Has a region for each step that is being made or read.
            slots: The rank's places in each global batch: those of a region.
        """
        self.pieces = pieces
        self.arena = arena
        self.first = slots.start

    def __getitem__(self, place: Place) -> Piece | Gone:
        region = self.arena.region(place.finished_steps)
        rows = region[place.slots.start - self.first : place.slots.stop - self.first]
        return self.pieces.make(place.finished_steps, place.slots, rows)


def piece_count(slots: range) -> int:
    """Returns the number of pieces that a rank makes for each step.

    Args:
        slots: The rank's places in each global batch.
    """
    return -(-len(slots) // PIECE)


def regions_needed(pieces_per_step: int, in_flight: int) -> int:
    """Returns the regions of a ring in which no region is written that is still read.

    DataLoader gives out a new piece whenever it hands one over. If the last piece of step s has
    been handed over, workers may be writing the `in_flight` pieces after it: those of the
    ceil(in_flight / pieces_per_step) steps that follow. These and step s need a region each.

    One more, because a batch is still read when the next one is made: `prepare` is called at a
    step's end, before it is known that the step need not be repeated; and a GPU may be at the
    batch's copies when the host asks for the next.

    Args:
        pieces_per_step: The rank's pieces of a step.
        in_flight: Pieces that workers have been asked for, at most; 0 without workers.
    """
    steps_ahead = -(-in_flight // pieces_per_step)
    return 1 + steps_ahead + 1
