"""How far a student's softmax is from its teacher's, for each row and each column of their logits.

One pass over the tiles of both finds every sum that a Kullback-Leibler divergence needs. Each row
and column keeps its largest logit so far, so that no temperature overflows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from align_train.cluster.collectives import all_reduce_
from align_train.loss.tiles import Tile, Tiles


class TwoTiles(NamedTuple):
    """The same rows and columns of both logits.

    Attributes:
        student: The student's tile.
        teacher: The teacher's logits.
        unknown: bool, of the same shape: logits that do not count; None: all do.
    """

    student: Tile
    teacher: Tensor
    unknown: Tensor | None


def side_by_side(student: Tiles, teacher: Tiles, known: Tensor | None) -> Iterator[TwoTiles]:
    """The tiles of student and teacher, side by side; logits that do not count are -inf.

    Args:
        student: The student's tiles.
        teacher: The teacher's, of the same size.
        known: bool `[B]`, of the global batch: False for a pair that the teacher has no embeddings
            of; None: it has all.
    """
    for ours, theirs in zip(student, teacher, strict=True):
        unknown = None
        if known is not None:
            rows = student.own(known)[ours.rows, None]
            unknown = ~(rows & known[None, ours.columns])
            ours.logits.masked_fill_(unknown, -torch.inf)
            theirs.logits.masked_fill_(unknown, -torch.inf)
        yield TwoTiles(ours, theirs.logits, unknown)


class Direction:
    """Running sums of each row, or of each column: all that its divergence needs.

    With s and t the logits of student and teacher: Σ exp s, Σ exp t and Σ exp t · (t - s), each
    shifted by the largest logit so far.
    """

    def __init__(self, like: Tensor, count: int) -> None:
        """Has seen no logit yet.

        Args:
            like: Gives dtype and device.
            count: How many rows, or columns.
        """
        # Not -inf: a row without any logit that counts must not become no number.
        lowest = torch.finfo(like.dtype).min
        self.largest = like.new_full((2, count), lowest)  # of the student, of the teacher
        self.sums = like.new_zeros((3, count))

    def add(self, tiles: TwoTiles, difference: Tensor, part: slice, over: int) -> None:
        """Takes in a tile.

        Args:
            tiles: The logits.
            difference: Teacher minus student; 0 where a logit does not count.
            part: The tile's rows, or its columns.
            over: The axis that is summed: 1 for rows, 0 for columns.
        """
        logits = (tiles.student.logits, tiles.teacher)
        before = self.largest[:, part]
        now = torch.stack([side.amax(over) for side in logits]).maximum(before)
        shrink = (before - now).exp_()

        student, teacher = (
            (side - largest.unsqueeze(over)).exp_()
            for side, largest in zip(logits, now, strict=True)
        )
        sums = [student.sum(over), teacher.sum(over), teacher.mul_(difference).sum(over)]
        # The last two are both of the teacher's exponentials.
        self.sums[:, part] = self.sums[:, part] * shrink[[0, 1, 1]] + torch.stack(sums)
        self.largest[:, part] = now

    def complete(self) -> None:
        """Adds up what ranks have of each column. Collective."""
        largest = all_reduce_(self.largest.clone(), "max")
        self.sums *= (self.largest - largest).exp_()[[0, 1, 1]]
        all_reduce_(self.sums)
        self.largest = largest

    def log_sum_exps(self) -> Tensor:
        """Of the student and of the teacher, `[2, count]`; -inf where no logit counts."""
        return self.largest + self.sums[:2].log()

    def divergences(self) -> Tensor:
        """Σ p · log(p / q), with the teacher's p and the student's q; 0 where no logit counts."""
        student, teacher = self.log_sum_exps()
        found: Tensor = self.sums[2] / self.sums[1] + student - teacher
        return found.masked_fill_(self.sums[1] == 0, 0)
