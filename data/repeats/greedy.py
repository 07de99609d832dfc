"""Who stays: the best image first, and then each that is near none of those that stay.

The images are gone through by rank. An image goes if it is near one that stays, which is its
*keeper*: the best one, if there are several. So those that stay are far from each other, and each
that goes has a keeper near it. "A near B near C, but A not near C" leaves A and C, if B is not the
best of them. Compared are images that have a cell in common.

They are taken in waves. A wave is compared with those that stay of the waves before, and then
within itself. The result is that of the plain loop, whatever the waves are. A wave begins small: a
thousand equal images would be half a million near pairs within one, but only a thousand once one
of them stays. A wave with too many pairs is cut to a quarter, down to a single image.

Price: N images of dimension D in C cells of P probes take P² N² D / C products. Memory: the near
pairs of a wave, at most 4 million, and blocks of rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from .cells import Cells
from .rows import Floats, Ints, Rows

STAYS = np.iinfo(np.int64).max
"""In place of a keeper."""

_FIRST_WAVE = 1024
_LARGEST_WAVE = 2**21
_MOST_PAIRS = 2**22  # near pairs of a wave

# What float32 may move a cosine by is a tenth of this.
_DOUBT = 1e-5

# Of a block of cosines.
_ROWS = 1024
_OTHERS = 8192

Near = tuple[Ints, Ints]
"""Ranks, and for each one another, better rank near it."""


def find_keepers(rows: Rows, cells: Cells, threshold: float) -> Ints:
    """Decides who stays.

    Args:
        rows: The images.
        cells: Decide which of them are compared.
        threshold: Two images of this cosine, or a larger one, are near each other.

    Returns:
        The keeper of each rank, or `STAYS`, `[ranked]`.
    """
    return _Choice(rows, cells, threshold).made()


class _TooMany(Exception):
    """A wave has more near pairs than memory for them."""


class _Choice:
    def __init__(self, rows: Rows, cells: Cells, threshold: float) -> None:
        self.rows = rows
        self.cells = cells
        self.threshold = threshold
        self.keepers = np.full(len(rows), STAYS, dtype=np.int64)

    def made(self) -> Ints:
        first = 0
        size = _FIRST_WAVE

        with tqdm(total=len(self.rows), desc="comparing", unit="image", unit_scale=True) as bar:
            while first < self.rows.scored:
                last = min(first + size, self.rows.scored)
                self._compare_with_kept(first, last)
                try:
                    near = self._near_within(first, last)
                except _TooMany:
                    # One image alone has no pair: this comes to an end.
                    size = max((last - first) // 4, 1)
                    continue
                self._choose(*near)
                bar.update(last - first)
                first = last
                size = min(2 * size, _LARGEST_WAVE)

            # Without a score an image is nobody's keeper, but it may have one.
            self._compare_with_kept(first, len(self.rows))
            bar.update(len(self.rows) - first)
        return self.keepers

    def _compare_with_kept(self, first: int, last: int) -> None:
        """Finds keepers among those that stay of the ranks before a wave."""
        for cell in range(len(self.cells)):
            members = self.cells.members(cell)
            begin, end = np.searchsorted(members, (first, last))
            # Those with a keeper are of a wave that was cut.
            wave = self._staying(members[begin:end])
            if not len(wave):
                continue
            for ranks, others in self._near(wave, self._staying(members[:begin])):
                # `.at`: a rank stands here once for each image near it; the best is its keeper.
                np.minimum.at(self.keepers, ranks, others)

    def _near_within(self, first: int, last: int) -> Near:
        """The near pairs of a wave, of images without a keeper so far."""
        ranks: list[Ints] = []
        others: list[Ints] = []
        found = 0

        for cell in range(len(self.cells)):
            members = self.cells.members(cell)
            begin, end = np.searchsorted(members, (first, last))
            wave = self._staying(members[begin:end])
            for some, better in self._near(wave, wave):
                found += len(some)
                if found > _MOST_PAIRS:
                    raise _TooMany
                ranks.append(some)
                others.append(better)

        none = np.empty(0, dtype=np.int64)
        return np.concatenate([none, *ranks]), np.concatenate([none, *others])

    def _choose(self, ranks: Ints, others: Ints) -> None:
        """Goes through the pairs of a wave in the order of ranks."""
        order = np.lexsort((others, ranks))
        # The better image of a pair is decided before the other is asked for.
        for rank, other in zip(ranks[order].tolist(), others[order].tolist(), strict=True):
            if self.keepers[rank] == STAYS and self.keepers[other] == STAYS:
                self.keepers[rank] = other

    def _staying(self, ranks: Ints) -> Ints:
        staying: Ints = ranks[self.keepers[ranks] == STAYS]
        return staying

    def _near(self, ranks: Ints, others: Ints) -> Iterator[Near]:
        """The near pairs of some ranks with better ones among others. Both rise."""
        for first in range(0, len(others), _OTHERS):
            block = others[first : first + _OTHERS]
            theirs = self.rows.take(block)
            is_whole = ranks is others and len(block) == len(others)

            for start in range(0, len(ranks), _ROWS):
                some = ranks[start : start + _ROWS]
                better = int(np.searchsorted(block, some[-1]))
                if better:
                    # A wave that is compared with itself is read once.
                    mine = theirs[start : start + _ROWS] if is_whole else self.rows.take(some)
                    yield self._pairs(mine @ theirs[:better].T, some, block)

    def _pairs(self, cosines: Floats, ranks: Ints, others: Ints) -> Near:
        """The near pairs of a block of cosines."""
        least = self.threshold - _DOUBT
        # Most rows have none, and the largest of a row is found quickly.
        some = np.flatnonzero(cosines.max(axis=1) >= least)
        cosines = cosines[some]
        row, column = np.nonzero(cosines >= least)
        ranks = ranks[some[row]]
        others = others[column]
        near = (cosines[row, column] >= self.threshold + _DOUBT) & (others < ranks)

        # Float32's last digits depend on the blocks and threads.
        doubtful = np.flatnonzero(~near & (others < ranks))
        if len(doubtful):
            exact = self.rows.exact_cosines(ranks[doubtful], others[doubtful])
            near[doubtful] = exact >= self.threshold
        return ranks[near], others[near]
