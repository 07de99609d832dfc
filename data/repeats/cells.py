"""Cells of images that lie near each other, by k-means: only within a cell images are compared.

Each image is in several cells, those of the nearest centres (`probes`). So two images near each
other meet although a border lies between them, if they have one cell in common.

The centres follow from the images and their keys alone. Cosines that decide between two cells by a
hair are computed again in float64, so that the number of threads changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .rows import Floats, Ints, Rows
from .settings import ALL_COMPARED

_SAMPLE = 64  # images for each cell, to find the centres; faiss asks for 39
_ROUNDS = 10  # of k-means
_SEED = 0  # faiss splits cells by it that would be empty

# What float32 may move a cosine by is a tenth of this.
DOUBT = 1e-5


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
        cells: How many cells, at most as many as images.
        probes: Cells of each image.
    """
    if cells == 1:
        starts = np.array([0, len(rows)], dtype=np.int64)
        return Cells(starts, np.arange(len(rows), dtype=np.int64))

    probes = min(probes, cells)
    cell_of = _assigned(rows, _centres(rows, cells), probes)
    by_cell = np.argsort(cell_of, axis=None, kind="stable")
    counts = np.bincount(cell_of.ravel(), minlength=cells)
    starts = np.concatenate([[0], np.cumsum(counts)])
    by_cell //= probes  # from the place in `cell_of` to the rank
    return Cells(starts, by_cell)


def _centres(rows: Rows, cells: int) -> Floats:
    """The centres of the cells, `[cells, dim]`, of length 1."""
    import faiss

    # By the hash of the key: the sample is the same in any order of the shards.
    count = min(_SAMPLE * cells, len(rows))
    sample = rows.take(np.argsort(rows.hashes, kind="stable")[:count])
    means = faiss.Kmeans(
        rows.file.shape[1],
        cells,
        niter=_ROUNDS,
        spherical=True,
        seed=_SEED,
        min_points_per_centroid=1,  # a few images for as many cells are no error
        max_points_per_centroid=_SAMPLE,
    )
    means.train(sample, init_centroids=sample[:cells])
    assert means.centroids is not None
    return means.centroids


def _assigned(rows: Rows, centres: Floats, probes: int) -> NDArray[np.int32]:
    """The nearest cells of each rank, `[ranked, probes]`."""
    import faiss

    index = faiss.IndexFlatIP(centres.shape[1])
    index.add(centres)
    cell_of = np.empty((len(rows), probes), dtype=np.int32)

    with tqdm(total=len(rows), desc="sorting into cells", unit="image", unit_scale=True) as bar:
        for ranks, block in rows.blocks():
            # One more than wanted, to see how near the first one is that is left out.
            cosines, found = index.search(block, min(probes + 1, len(centres)))
            if probes < len(centres):
                doubtful = cosines[:, probes - 1] - cosines[:, probes] < DOUBT
                found[doubtful] = _exactly(block[doubtful], centres, found[doubtful])
            cell_of[ranks] = found[:, :probes]
            bar.update(len(block))
    return cell_of


def _exactly(block: Floats, centres: Floats, found: Ints) -> Ints:
    """Sorts the cells of each row anew, by cosines in float64."""
    rows = block.astype(np.float64)[:, None]
    cosines = (rows * centres[found].astype(np.float64)).sum(axis=2)
    order = np.lexsort((found, -cosines), axis=1)
    return np.take_along_axis(found, order, axis=1)
