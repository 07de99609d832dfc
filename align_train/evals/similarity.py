"""Cosines between two sets of embeddings, in tiles, and the ranks that retrieval counts.

A similarity here *is* the dot product in float64, rounded to float32. So copies of an embedding
tie, and a rank depends neither on the tiles, nor on the number of processes, nor on the library
that multiplies matrices.

How: a float32 product of a tile of 2,048 x 4,096 serves both directions. An entry may be wrong if
it is very close to the score that it is compared with: closer than six standard deviations of the
product's rounding error (Higham and Mary 2019). These entries, a few in a hundred thousand, are
computed again in float64. A model that embeds everything alike has many of them: then the whole
tile is.

Price: 2·n·m·dim operations for both directions together, some 100 MB beside the embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from align_train.cluster.collectives import gather_rows, rank, sum_over_ranks, world_size

_ROWS = 2048  # of a tile
_COLUMNS = 4096  # of a tile
_AT_ONCE = 16_384  # entries that are computed again together
_MANY = 64  # with more than one in so many entries close to the score, the whole tile is exact

_FLOAT32_ROUNDING = 2.0**-24  # the largest relative error of one operation
_DEVIATIONS = 6  # of the rounding error of a product, which grows with the root of its length


def similarities(
    queries: Tensor,
    candidates: Tensor,
    *,
    rows: int = 1024,
) -> Iterator[tuple[slice, Tensor]]:
    """Computes exact rows of the whole matrix, block by block.

    It serves few candidates (classes), or few queries (those that are drawn).

    Args:
        queries: `[n, dim]`.
        candidates: `[m, dim]`.
        rows: Queries in a block.

    Yields:
        The rows of a block, and its similarities: float32 `[rows, m]`.
    """
    for start in range(0, len(queries), rows):
        block = slice(start, start + rows)
        wide = queries[block].double()
        parts = []
        # In parts: all candidates in float64 would take twice the embeddings' memory.
        for part in torch.split(candidates, _COLUMNS):
            products = wide @ part.double().T
            parts.append(products.float())
        yield block, torch.cat(parts, dim=1)


def paired(first: Tensor, second: Tensor, firsts: Tensor, seconds: Tensor) -> Tensor:
    """Computes exact similarities of chosen pairs.

    Args:
        first: `[n, dim]`.
        second: `[m, dim]`.
        firsts: int64 `[k]`, indices into `first`.
        seconds: int64 `[k]`, indices into `second`.

    Returns:
        float32 `[k]`.
    """
    products = first.new_empty(len(firsts), dtype=torch.float32)
    for start in range(0, len(firsts), _AT_ONCE):
        block = slice(start, start + _AT_ONCE)
        left = first[firsts[block]].double()
        right = second[seconds[block]].double()
        products[block] = (left * right).sum(dim=1).float()
    return products


def retrieval_ranks(images: Tensor, texts: Tensor, image_of_text: Tensor) -> tuple[Tensor, Tensor]:
    """Counts the wrong answers that are as similar as the right one, or more; collective.

    Ties count against the model: one that embeds everything alike finds nothing. All ranks call
    this with the same embeddings; each of them computes its share of the images.

    Args:
        images: `[images, dim]`, L2-normalised and finite.
        texts: `[texts, dim]`, L2-normalised and finite.
        image_of_text: int64 `[texts]`, the index of the image that each text belongs to.

    Returns:
        int64 `[images]`: for each image the wrong texts at least as similar as its best own text.
        int64 `[texts]`: for each text the wrong images at least as similar as its own image. A rank
        of 0 is found at once.
    """
    every_text = torch.arange(len(texts), device=texts.device)
    own = paired(images, texts, image_of_text, every_text)
    # An image with several texts is found by the best of them.
    best = own.new_full((len(images),), -torch.inf)
    best.scatter_reduce_(0, image_of_text, own, "amax")

    mine = torch.arange(rank(), len(images), world_size(), device=images.device)
    of_images = torch.zeros_like(mine)
    of_texts = torch.zeros(len(texts), dtype=torch.long, device=texts.device)

    for start in range(0, len(mine), _ROWS):
        rows = mine[start : start + _ROWS]
        queries = images[rows]
        for first in range(0, len(texts), _COLUMNS):
            end = min(first + _COLUMNS, len(texts))
            columns = torch.arange(first, end, device=texts.device)
            tile = _Tile(
                queries,
                texts[first:end],
                owners=rows,
                owners_of_columns=image_of_text[columns],
            )
            # One product serves both directions.
            wrong_texts = tile.at_least(best[rows, None])
            wrong_images = tile.at_least(own[None, columns])
            of_images[start : start + _ROWS] += _count(wrong_texts, 1)
            of_texts[columns] += _count(wrong_images, 0)

    return gather_rows(of_images, len(images)), sum_over_ranks(of_texts)


class _Tile:
    """One tile of similarities.

    A row and a column with the same owner belong together; their entry is right, and never counts.
    """

    def __init__(
        self,
        queries: Tensor,
        candidates: Tensor,
        *,
        owners: Tensor,
        owners_of_columns: Tensor,
    ) -> None:
        self.queries = queries
        self.candidates = candidates
        self.owners = owners
        self.owners_of_columns = owners_of_columns

        self.approximate = queries @ candidates.T
        self.tolerance = _DEVIATIONS * queries.shape[1] ** 0.5 * _FLOAT32_ROUNDING

    def at_least(self, score: Tensor) -> Tensor:
        """Finds the wrong entries that reach a score.

        Args:
            score: `[rows, 1]` or `[1, columns]`.

        Returns:
            bool `[rows, columns]`.
        """
        above: Tensor = self.approximate > score + self.tolerance
        # In place: masks of a tile are as expensive as the comparisons that make them.
        near = (self.approximate >= score - self.tolerance).logical_xor_(above)
        if int(_count(near, 1).sum()) * _MANY > near.numel():
            return (self.exact >= score) & (self.owners[:, None] != self.owners_of_columns)

        # A right entry is the score itself, or below the best one: it is near, or not above.
        rows, columns = near.nonzero(as_tuple=True)
        wrong = self.owners[rows] != self.owners_of_columns[columns]
        rows = rows[wrong]
        columns = columns[wrong]

        exact = paired(self.queries, self.candidates, rows, columns)
        reached = exact >= score.expand_as(above)[rows, columns]
        above[rows[reached], columns[reached]] = True
        return above

    @cached_property
    def exact(self) -> Tensor:
        """The whole tile in float64, rounded: for the tile that has many entries near a score."""
        _, tile = next(similarities(self.queries, self.candidates, rows=len(self.queries)))
        return tile


def _count(mask: Tensor, dim: int) -> Tensor:
    """Counts the true values along a dimension."""
    if mask.device.type != "cpu":
        return mask.sum(dim=dim)

    # On CPUs NumPy takes a tenth of torch's time.
    counts: Tensor = torch.from_numpy(np.count_nonzero(mask.numpy(), axis=dim))
    return counts
