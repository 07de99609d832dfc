"""Cells of images that lie near each other, by k-means: only within a cell images are compared.

Each image is in several cells, those of the nearest centres (`probes`). So two images near each
other meet although a border lies between them, if they have one cell in common.

The cells follow from the images and their keys alone. Numbers are rounded to steps of 1/2048 here.
Products of two of them are whole multiples of 2^-22, and all sums of these for vectors of length 1
fit the 24 bits of a float32. So cosines are exact, in any order of the sums: threads, blocks and
the order of the shards change nothing, and equal images are in the same cells.

Price: as many products as images times cells; 52 MB for the cosines of a block at 3,000 cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .rows import Floats, Ints, Rows
from .settings import ALL_COMPARED

_SAMPLE = 64  # images for each cell, to find the centres
_ROUNDS = 10  # of k-means
_STEPS = 2048  # of a number, from 0 to 1
_BLOCK = 4096  # images whose cosines are held at once


@dataclass(frozen=True)
class Cells:
    """The ranks of each cell's images.

    Attributes:
        starts: Where each cell begins in `ranks`, `[cells + 1]`.
        ranks: Rising within a cell; all cells end to end, `[probes * ranked]`.
    """

    starts: Ints
    ranks: Ints

    def __len__(self) -> int:
        return len(self.starts) - 1

    def members(self, cell: int) -> Ints:
        """The ranks in a cell, rising."""
        return self.ranks[self.starts[cell] : self.starts[cell + 1]]

    @property
    def largest(self) -> int:
        """Images of the largest cell."""
        return int(np.diff(self.starts).max())

    def say_large(self, images: int) -> None:
        """Says if one cell may take as long as all others: it takes time, if no memory.

        Args:
            images: All of them.
        """
        squares = np.diff(self.starts) ** 2
        if len(self) > 1 and self.largest > ALL_COMPARED and 2 * squares.max() > squares.sum():
            print(
                f"the largest of {len(self):,} cells has {self.largest:,} of {images:,} images, "
                f"which look alike to the model; to compare them may take longer than all the rest",
                flush=True,
            )


def make_cells(rows: Rows, cells: int, probes: int) -> Cells:
    """Sorts images into cells.

    Args:
        rows: The images.
        cells: How many cells, at most as many as images. There are fewer if images are equal.
        probes: Cells of each image.
    """
    if cells == 1:
        starts = np.array([0, len(rows)], dtype=np.int64)
        return Cells(starts, np.arange(len(rows), dtype=np.int64))

    centres = _centres(rows, cells)
    probes = min(probes, len(centres))
    cell_of = np.empty((len(rows), probes), dtype=np.int32)
    with tqdm(total=len(rows), desc="sorting into cells", unit="image", unit_scale=True) as bar:
        for ranks, block in rows.blocks():
            cell_of[ranks] = _nearest(_rounded(block), centres, probes)
            bar.update(len(block))

    # Stable, so that ranks rise within each cell, as `greedy.py` takes them.
    by_cell = np.argsort(cell_of, axis=None, kind="stable")
    counts = np.bincount(cell_of.ravel(), minlength=len(centres))
    starts = np.concatenate([[0], np.cumsum(counts)])
    by_cell //= probes  # from the place in `cell_of` to the rank
    return Cells(starts, by_cell)


def _centres(rows: Rows, cells: int) -> Floats:
    """The centres of the cells, `[cells, dim]`, of length 1."""
    # By the hash of the key: the sample is the same in any order of the shards.
    count = min(_SAMPLE * cells, len(rows))
    sample = _rounded(rows.take(np.argsort(rows.hashes, kind="stable")[:count]))
    centres = sample[:cells]
    for _ in tqdm(range(_ROUNDS), desc="finding cells", unit="round"):
        centres = _means(sample, _nearest(sample, centres, 1)[:, 0])
    return centres


def _means(sample: Floats, cell_of: NDArray[np.int32]) -> Floats:
    """The centres of the cells that have images in the sample; equal centres become one so."""
    order = np.argsort(cell_of, kind="stable")
    _, starts = np.unique(cell_of[order], return_index=True)
    # Exact as well: the steps of any sample fit a float64.
    sums = np.add.reduceat(sample[order], starts, axis=0, dtype=np.float64)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return _rounded((sums / np.maximum(lengths, 1 / _STEPS)).astype(np.float32))


def _nearest(rows: Floats, centres: Floats, probes: int) -> NDArray[np.int32]:
    """The nearest cells of each row, the first of equally near ones first, `[rows, probes]`."""
    found = np.empty((len(rows), probes), dtype=np.int32)
    for first in range(0, len(rows), _BLOCK):
        cosines = rows[first : first + _BLOCK] @ centres.T
        every = np.arange(len(cosines))
        for probe in range(probes):
            best = cosines.argmax(axis=1)
            found[first + every, probe] = best
            # Out of the way of the next probe.
            cosines[every, best] = -np.inf
    return found


def _rounded(rows: Floats) -> Floats:
    """Rows of length 1, in steps that make products exact."""
    rounded: Floats = np.rint(rows * np.float32(_STEPS)) / np.float32(_STEPS)
    return rounded
