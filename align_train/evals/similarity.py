"""Cosines between two sets of embeddings, in tiles, and the ranks that retrieval counts: exact, whatever the tiles.

A similarity here *is* the dot product in float64, rounded to float32: so copies of an embedding tie, and a rank does not hang
on how a matrix product was cut up, on how many ranks share it out, or on the library that computes it. What is computed is a
float32 product of tiles of 2,048 x 4,096, which serves both directions; entries so close to the score that they are compared
with that float32 may be wrong (six standard deviations of its rounding error, Higham and Mary 2019) are computed again in
float64: a few in a hundred thousand. Where a tile has many, as with a model that embeds everything alike, all of it is.

Price: 2·n·m·dim operations for both directions together, some 100 MB beside the embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from align_train.cluster.collectives import gather_rows, rank, sum_over_ranks, world_size

_ROWS, _COLUMNS = 2048, 4096
_AT_ONCE = 16_384  # pairs computed again together
_MANY = 64  # one in so many entries of a tile


def similarities(
    queries: Tensor, candidates: Tensor, *, rows: int = 1024
) -> Iterator[tuple[slice, Tensor]]:
    """Exact rows of the whole matrix, `rows` at a time: where, and `[rows, m]`. For few candidates (classes), or few queries
    (that are shown)."""
    for start in range(0, len(queries), rows):
        where = slice(start, start + rows)
        wide = queries[where].double()
        parts = [(wide @ part.double().T).float() for part in torch.split(candidates, _COLUMNS)]
        yield where, torch.cat(parts, dim=1)


def paired(first: Tensor, second: Tensor, firsts: Tensor, seconds: Tensor) -> Tensor:
    """Exact similarities of `first[firsts[k]]` and `second[seconds[k]]`: `[k]`."""
    found = first.new_empty(len(firsts), dtype=torch.float32)
    for start in range(0, len(firsts), _AT_ONCE):
        where = slice(start, start + _AT_ONCE)
        found[where] = (
            (first[firsts[where]].double() * second[seconds[where]].double()).sum(dim=1).float()
        )
    return found


def retrieval_ranks(images: Tensor, texts: Tensor, image_of_text: Tensor) -> tuple[Tensor, Tensor]:
    """How many wrong texts are at least as similar to each picture as the best of its own, and how many wrong pictures to each
    text as its own: `[pictures]`, `[texts]`, integers; 0 is found at once.

    images: `[pictures, dim]`, texts: `[texts, dim]`, normalised; text j belongs to picture `picture_of_text[j]`. Ties count
    against the model: one that embeds everything alike finds nothing. All ranks call it with the same embeddings, which are
    finite; each computes its share of the pictures.
    """
    own = paired(images, texts, image_of_text, torch.arange(len(texts), device=texts.device))
    best = own.new_full((len(images),), -torch.inf).scatter_reduce_(0, image_of_text, own, "amax")
    mine = torch.arange(rank(), len(images), world_size(), device=images.device)
    of_images, of_texts = (
        torch.zeros_like(mine),
        torch.zeros(len(texts), dtype=torch.long, device=texts.device),
    )
    for start in range(0, len(mine), _ROWS):
        rows = mine[start : start + _ROWS]
        queries = images[rows]
        for first in range(0, len(texts), _COLUMNS):
            columns = torch.arange(first, min(first + _COLUMNS, len(texts)), device=texts.device)
            tile = _Tile(
                queries, texts[first : first + _COLUMNS], right=(rows, image_of_text[columns])
            )
            of_images[start : start + _ROWS] += _count(tile.at_least(best[rows, None]), 1)
            of_texts[columns] += _count(tile.at_least(own[None, columns]), 0)
    return gather_rows(of_images, len(images)), sum_over_ranks(of_texts)


class _Tile:
    """One tile of similarities. right: numbers of the rows and of the columns; equal ones belong together and never count."""

    def __init__(
        self, queries: Tensor, candidates: Tensor, *, right: tuple[Tensor, Tensor]
    ) -> None:
        self.queries, self.candidates, self.right = queries, candidates, right
        self.approximate = queries @ candidates.T
        self.tolerance = 6 * queries.shape[1] ** 0.5 * 2.0**-24

    def at_least(self, score: Tensor) -> Tensor:
        """Which wrong entries reach `score`, `[rows, 1]` or `[1, columns]`: booleans `[rows, columns]`."""
        above: Tensor = self.approximate > score + self.tolerance
        near = (self.approximate >= score - self.tolerance).logical_xor_(above)
        if int(_count(near, 1).sum()) * _MANY > near.numel():
            return (self.exact >= score) & (self.right[0][:, None] != self.right[1][None, :])
        rows, columns = near.nonzero(as_tuple=True)
        wrong = self.right[0][rows] != self.right[1][columns]
        rows, columns = rows[wrong], columns[wrong]
        reached = (
            paired(self.queries, self.candidates, rows, columns)
            >= score.expand_as(above)[rows, columns]
        )
        above[rows[reached], columns[reached]] = True
        return above

    @cached_property
    def exact(self) -> Tensor:
        return next(similarities(self.queries, self.candidates, rows=len(self.queries)))[1]


def _count(mask: Tensor, dim: int) -> Tensor:
    """How many are true, along a dimension; on CPUs by NumPy, which takes a tenth of torch's time."""
    if mask.device.type != "cpu":
        return mask.sum(dim=dim)
    counted: Tensor = torch.from_numpy(np.count_nonzero(mask.numpy(), axis=dim))
    return counted
