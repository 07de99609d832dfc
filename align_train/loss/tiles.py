"""The logits of a rank's images with all texts, tile by tile: what both pair losses are built on.

With few rows a tile has many columns, so a rank with few pairs starts few kernels.

Price: one buffer of `tile` × `tile` logits, which each tile overwrites; and the memory of masked
duplicates (`duplicates.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from align_train.cluster.collectives import gather, rank, world_size
from align_train.loss.base import PairLoss
from align_train.loss.duplicates import Duplicates

F = TypeVar("F", bound=Callable[..., object])

# exp(x) neither overflows nor loses digits for |x| below this.
_EXPONENT = {torch.float32: 85.0, torch.float64: 700.0}

# Sides of a square with as many logits as a tile. On a CPU they fit the cache; a GPU wants few,
# large kernels.
_SIDE_ON_CPU = 1024  # 4 MiB
_SIDE_ON_GPU = 4096  # 64 MiB

# Gradients of a loss's arguments that have none: a number, a tile's size, ids.
NO_GRADIENTS = (None, None, None)


class Tile(NamedTuple):
    """Some rows and columns of logits.

    Attributes:
        rows: Of this rank's images.
        columns: Of the global batch's texts.
        logits: `[rows, columns]`, overwritten by the next tile.
        masked: bool, of the same shape; None: no logit is masked.
    """

    rows: slice
    columns: slice
    logits: Tensor
    masked: Tensor | None


@dataclass
class Tiles:
    """This rank's rows of logits = scale · images · textsᵀ, tile by tile.

    Attributes:
        images: `[n, d]`, this rank's.
        texts: `[B, d]`, of the global batch.
        scale: `[1]`, one over the temperature.
        size: Rows of a tile, at most; a tile has at most `size` × `size` logits.
        duplicates: What is masked; None: nothing.
    """

    images: Tensor
    texts: Tensor
    scale: Tensor
    size: int
    duplicates: Duplicates | None

    def __iter__(self) -> Iterator[Tile]:
        height, width = len(self.images), len(self.texts)
        # Never batch × batch: this is all that is held of the logits.
        buffer = self.images.new_empty(min(self.size**2, height * width))

        for top in range(0, height, self.size):
            rows = slice(top, min(top + self.size, height))
            # Scaled once for a row of tiles; scaling the logits would be a pass over each tile.
            scaled = self.images[rows] * self.scale

            count = rows.stop - rows.start
            step = self.size**2 // count
            for left in range(0, width, step):
                columns = slice(left, min(left + step, width))
                shape = (count, columns.stop - columns.start)
                # The last tile of a row of tiles may be smaller.
                logits = buffer[: math.prod(shape)].view(shape)
                torch.mm(scaled, self.texts[columns].T, out=logits)

                masked = self.duplicates.mask(rows, columns) if self.duplicates else None
                yield Tile(rows, columns, logits, masked)

    def own(self, of_all: Tensor) -> Tensor:
        """This rank's part of a number for every pair: `[B]` -> `[n]`."""
        return of_all[rank() * len(self.images) :][: len(self.images)]

    def within_range(self) -> bool:
        """Whether the dtype can hold the exponential of any logit, and sums of them.

        By the bound |logit| ≤ scale · norm · norm.
        """
        if not len(self.images):
            return True

        largest = self.scale * self.images.norm(dim=1).max() * self.texts.norm(dim=1).max()
        return bool(largest + math.log(len(self.texts)) <= _EXPONENT[self.images.dtype])


def accumulate(
    tile: Tile, weights: Tensor, tiles: Tiles, images_out: Tensor, texts_out: Tensor
) -> None:
    """Adds one tile's share to the gradients of the embeddings.

    Args:
        tile: The tile.
        weights: d loss / d logits of the tile, without the scale.
        tiles: All tiles.
        images_out: `[n, d]`, added to.
        texts_out: `[B, d]`, added to.
    """
    # In place: the sums are all that a tile leaves.
    images_out[tile.rows].addmm_(weights, tiles.texts[tile.columns])
    texts_out[tile.columns].addmm_(weights.T, tiles.images[tile.rows])


class Inputs(NamedTuple):
    """Embeddings of a global batch, in float32 at least.

    In bf16, logits at scale 100 have gradients that are wrong by 11 %.

    Attributes:
        images: `[n, d]`, this rank's.
        own_texts: `[n, d]`, this rank's.
        texts: `[B, d]`, of all ranks.
        scale: `[1]`, one over the temperature.
    """

    images: Tensor
    own_texts: Tensor
    texts: Tensor
    scale: Tensor

    @classmethod
    def of(
        cls, images: Tensor, texts: Tensor, temperature: Tensor, gathered: Tensor | None = None
    ) -> Inputs:
        """Converts, and gathers the texts. Collective.

        Args:
            images: `[n, d]`, this rank's.
            texts: `[n, d]`, this rank's.
            temperature: `[1]`.
            gathered: The texts of all ranks, if they are gathered already.
        """
        dtype = torch.promote_types(images.dtype, torch.float32)
        # Texts go to the other ranks, images stay: one of both must.
        own_texts = texts.to(dtype)
        all_texts = gather(own_texts) if gathered is None else gathered.to(dtype)
        return cls(images.to(dtype), own_texts, all_texts, 1 / temperature.to(dtype))


def scaled_gradients(
    gradient: Tensor,
    inputs: Inputs,
    images_out: Tensor,
    texts_out: Tensor,
    denominator: int | Tensor,
    like: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """Gradients for a strategy that averages over ranks: world size × this rank's share.

    d loss / d scale = Σ image · (d loss / d image) / scale, and scale = 1 / temperature.

    Args:
        gradient: Of the loss's value.
        inputs: Those of the loss.
        images_out: Of this rank's images, in units of scale / denominator; scaled in place.
        texts_out: Of this rank's texts, in the same units; scaled in place.
        denominator: See there.
        like: Images, texts and temperature as the loss was given them.

    Returns:
        The gradients of images, texts and temperature, in their dtypes.
    """
    factor = gradient.to(inputs.scale.dtype) * inputs.scale * world_size() / denominator
    images_out.mul_(factor)
    texts_out.mul_(factor)
    temperature_out = -inputs.scale * (inputs.images * images_out).sum()

    gradients = (images_out, texts_out, temperature_out)
    return tuple(out.to(source.dtype) for out, source in zip(gradients, like, strict=True))


def outside_graphs(function: F) -> F:
    """A function at which a compiled graph is broken.

    Matmuls and collectives are nothing that a compiler could fuse.
    """
    disable = cast("Callable[[F], F]", torch.compiler.disable)
    return disable(function)


def usual_side(kind: str) -> int:
    """Returns the side of a square with as many logits as a tile has on a kind of device.

    Args:
        kind: torch's name of it, e.g. `cpu` or `cuda`.
    """
    return _SIDE_ON_CPU if kind == "cpu" else _SIDE_ON_GPU


class GlobalLoss(PairLoss):
    """A pair loss that is computed tile by tile."""

    def __init__(self, *, tile: int | None = None, mask_duplicates: bool = False) -> None:
        """Sets the size of a tile and the treatment of duplicates.

        Args:
            tile: Held are `tile` × `tile` logits at a time: with fewer rows, more columns; None:
                1024 on a CPU, 4096 on a GPU.
            mask_duplicates: True: pairs with the same image or the same text elsewhere in the
                global batch are not taken for negatives of each other.

        Raises:
            ValueError: `tile` is below 1.
        """
        super().__init__()
        if tile is not None and tile < 1:
            raise ValueError(f"tile={tile}: expected at least 1")
        self.tile = tile
        self.mask_duplicates = mask_duplicates

    @property
    def needs_ids(self) -> bool:
        """True if duplicates are masked."""
        return self.mask_duplicates

    def _side(self, device: torch.device) -> int:
        return self.tile or usual_side(device.type)

    def _ids(
        self, image_ids: Tensor | None, text_ids: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        if not self.mask_duplicates:
            return None
        if image_ids is None or text_ids is None:
            raise ValueError(
                "loss.mask_duplicates needs to know which contents are the same: "
                "image_ids and text_ids"
            )
        return image_ids, text_ids
