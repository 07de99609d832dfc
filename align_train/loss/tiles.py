from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from align_train.cluster.collectives import gather, rank, world_size
from align_train.loss.base import PairLoss

# exp(x) neither overflows nor loses digits for |x| below this.
_EXPONENT = {torch.float32: 85.0, torch.float64: 700.0}


class Duplicates:
    """Which columns are no negatives of which rows: the same picture or the same text elsewhere in the global batch.

    image_ids, text_ids: int64 `[device batch]`, equal where the content is. Memory: 4·B integers.
    """

    def __init__(self, image_ids: Tensor, text_ids: Tensor) -> None:
        self.images, self.texts = gather(image_ids), gather(text_ids)
        self.first_row = rank() * len(image_ids)

    def mask(self, rows: slice, columns: slice) -> Tensor:
        """bool `[rows, columns]`: True where a column is masked. A pair is never masked out of its own row."""
        own = slice(self.first_row + rows.start, self.first_row + rows.stop)
        masked = self.images[own, None] == self.images[None, columns]
        masked |= self.texts[own, None] == self.texts[None, columns]
        numbers = torch.arange(len(self.images), device=masked.device)
        masked &= numbers[own, None] != numbers[None, columns]
        return masked

    def unmasked(self) -> Tensor:
        """int64 `[B]`: how many columns each row of the global batch keeps (rows and columns alike: being a duplicate is
        mutual). Those that share the picture, plus those that share the text, minus those that share both."""
        kinds = torch.unique(torch.stack((self.images, self.texts)), dim=1, return_inverse=True)[1]
        alike = sum(
            (
                _count_equal(ids) * sign
                for ids, sign in ((self.images, 1), (self.texts, 1), (kinds, -1))
            ),
            start=0,
        )
        return len(self.images) - (torch.as_tensor(alike) - 1)


def _count_equal(ids: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(ids, return_inverse=True, return_counts=True)
    of_each: Tensor = counts[inverse]
    return of_each


class _Tile(NamedTuple):
    rows: slice
    columns: slice
    logits: Tensor
    masked: Tensor | None


@dataclass
class Tiles:
    """This rank's rows of logits = scale · images · textsᵀ, tile by tile, in one buffer that the next tile overwrites."""

    images: Tensor  # [n, d]
    texts: Tensor  # [B, d]
    scale: Tensor  # [1]
    size: int
    duplicates: Duplicates | None

    def __iter__(self) -> Iterator[_Tile]:
        own, every = len(self.images), len(self.texts)
        buffer = self.images.new_empty(min(self.size, own) * min(self.size, every))
        for top in range(0, own, self.size):
            rows = slice(top, min(top + self.size, own))
            scaled = self.images[rows] * self.scale
            for left in range(0, every, self.size):
                columns = slice(left, min(left + self.size, every))
                shape = (rows.stop - rows.start, columns.stop - columns.start)
                logits = buffer[: math.prod(shape)].view(shape)
                torch.mm(scaled, self.texts[columns].T, out=logits)
                yield _Tile(
                    rows,
                    columns,
                    logits,
                    self.duplicates.mask(rows, columns) if self.duplicates else None,
                )

    def own(self, of_all: Tensor) -> Tensor:
        """This rank's part of what is known of every pair, `[B]` -> `[n]`."""
        return of_all[rank() * len(self.images) :][: len(self.images)]

    def within_range(self) -> bool:
        """Whether the plain exponential of any logit, and sums of them, can be held (|logit| ≤ scale · norm · norm)."""
        if not len(self.images):
            return True
        largest = self.scale * self.images.norm(dim=1).max() * self.texts.norm(dim=1).max()
        return bool(largest + math.log(len(self.texts)) <= _EXPONENT[self.images.dtype])


def accumulate(
    tile: _Tile, weights: Tensor, tiles: Tiles, images_out: Tensor, texts_out: Tensor
) -> None:
    """Adds what one tile of d loss / d logits asks of the embeddings (without the scale)."""
    images_out[tile.rows].addmm_(weights, tiles.texts[tile.columns])
    texts_out[tile.columns].addmm_(weights.T, tiles.images[tile.rows])


class Inputs(NamedTuple):
    """What both losses begin with: embeddings in float32 at least (bf16 logits at scale 100 have 11 % gradient error)."""

    images: Tensor
    own_texts: Tensor
    texts: Tensor
    scale: Tensor

    @classmethod
    def of(
        cls, images: Tensor, texts: Tensor, temperature: Tensor, gathered: Tensor | None = None
    ) -> Inputs:
        dtype = torch.promote_types(images.dtype, torch.float32)
        texts = texts.to(dtype)
        every = gather(texts) if gathered is None else gathered.to(dtype)
        return cls(images.to(dtype), texts, every, 1 / temperature.to(dtype))


NONE = (None, None, None)


def scaled_gradients(
    gradient: Tensor,
    given: Inputs,
    images_out: Tensor,
    texts_out: Tensor,
    denominator: int,
    like: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """Gradients of images, texts and temperature, as an engine wants them that averages over ranks: world × the share.

    d loss / d scale = Σ image · (d loss / d image) / scale, and scale = 1 / temperature.
    """
    factor = gradient.to(given.scale.dtype) * given.scale * world_size() / denominator
    images_out.mul_(factor)
    texts_out.mul_(factor)
    temperature_out = -given.scale * (given.images * images_out).sum()
    return tuple(
        out.to(source.dtype)
        for out, source in zip((images_out, texts_out, temperature_out), like, strict=True)
    )


# A graph compiled around them is broken here: matmuls and collectives are nothing that a compiler could fuse.
outside_graphs: Any = torch.compiler.disable


class GlobalLoss(PairLoss):
    """tile: rows and columns of logits at a time; a tile is what is held of them. mask_duplicates: pairs with the same picture
    or the same text elsewhere in the global batch are not taken for negatives of each other."""

    def __init__(self, *, tile: int = 1024, mask_duplicates: bool = False) -> None:
        super().__init__()
        if tile < 1:
            raise ValueError(f"tile={tile}: expected at least 1")
        self.tile = tile
        self.mask_duplicates = mask_duplicates

    @property
    def needs_ids(self) -> bool:
        """Only if duplicates are masked."""
        return self.mask_duplicates

    def _ids(
        self, image_ids: Tensor | None, text_ids: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        if not self.mask_duplicates:
            return None
        if image_ids is None or text_ids is None:
            raise ValueError(
                "loss.mask_duplicates needs to know which contents are the same: image_ids and text_ids"
            )
        return image_ids, text_ids
