"""ALIGN's loss over the global batch (paper, section 4.2): exact, and never a matrix batch × batch.

Each image should find its own text among all texts of the global batch, and each text its own
image: two cross-entropies with logits = cosine / temperature, label smoothing over the global
batch, and the mean of both directions (the paper writes their sum).

How: texts are gathered, images stay where they are. One matmul makes a tile of a rank's rows of
logits, in a buffer that the next tile reuses. A tile serves both directions: the sums of its rows,
and of its columns, which one all-reduce completes. Backward makes the tiles again; the gradients of
texts return to their ranks by reduce-scatter. Label smoothing needs only sums of embeddings (closed
form). One exponential per tile, without a shift, serves rows and columns while float32 can hold it
(temperature ≥ about 1/74 for a batch of 65,536); below that each takes its own maximum.

Price per rank, with device batch n, global batch B, dimension d and W ranks:

- Operations: 2·n·B·d forward and 6·n·B·d backward (the usual form: 4 and 8).
- Kept between both: this rank's embeddings, the B·d gathered texts (W > 1) and n + B log-sum-exps
  (the usual form: two matrices n × B).
- At work: one or two tiles and, backward, the gradients (B + n)·d.
- Sent: n·d numbers gathered, B·d reduce-scattered, 2·B all-reduced for the columns (none for the
  sigmoid), one for the value.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from align_train.cluster.collectives import all_reduce_, scatter_sum, world_size
from align_train.loss.duplicates import Duplicates
from align_train.loss.tiles import (
    NO_GRADIENTS,
    GlobalLoss,
    Inputs,
    Tile,
    Tiles,
    accumulate,
    outside_graphs,
    scaled_gradients,
)


class _Context(FunctionCtx):
    """What forward leaves for backward."""

    saved_tensors: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]
    smoothing: float
    size: int
    direct: bool
    duplicates: Duplicates | None

    # torch takes None, too, against its own type.
    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


class _Contrastive(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        images: Tensor,
        texts: Tensor,
        temperature: Tensor,
        smoothing: float,
        size: int,
        ids: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        # Logits want float32 even if the towers run in bf16.
        with torch.autocast(images.device.type, enabled=False):
            inputs = Inputs.of(images, texts, temperature)
            batch = len(inputs.texts)

            # Smoothing is spread over all columns, or over those of a row that are not masked.
            duplicates = None
            spread = None
            if ids is not None:
                duplicates = Duplicates(*ids)
                if smoothing:
                    spread = 1 / duplicates.unmasked().to(inputs.images.dtype)

            tiles = Tiles(inputs.images, inputs.texts, inputs.scale, size, duplicates)
            direct = tiles.within_range()
            rows, columns, smoothed = _log_sum_exps(tiles, spread, direct=direct)
            if spread is None:
                # The sum of all logits, in closed form.
                sums = inputs.images.sum(0) @ inputs.texts.sum(0)
                smoothed = 2 / batch * inputs.scale[0] * sums

            # Of this rank's rows; the columns are complete on every rank.
            own = inputs.scale[0] * (inputs.images * inputs.own_texts).sum()
            local = 0.5 * rows.sum() - (1 - smoothing) * own - 0.5 * smoothing * smoothed
            value = (all_reduce_(local) + 0.5 * columns.sum()) / batch

        # Embeddings in the dtype that they came in: a float32 copy of bf16 ones is made again.
        ctx.save_for_backward(images, texts, temperature, inputs.texts, rows, columns, spread)
        ctx.smoothing = smoothing
        ctx.size = size
        ctx.direct = direct
        ctx.duplicates = duplicates
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, temperature, gathered, rows, columns, spread = ctx.saved_tensors
        smoothing = ctx.smoothing

        with torch.autocast(images.device.type, enabled=False):
            inputs = Inputs.of(images, texts, temperature, gathered)
            batch = len(inputs.texts)
            tiles = Tiles(inputs.images, inputs.texts, inputs.scale, ctx.size, ctx.duplicates)

            # All in units of scale / (2·batch), which comes last.
            even = 2 * smoothing / batch if spread is None else 0.0
            # Labels that are spread evenly are one number: their gradient is a sum of embeddings.
            images_out = (-even * inputs.texts.sum(0)).repeat(len(inputs.images), 1)
            texts_out = (-even * inputs.images.sum(0)).repeat(batch, 1)

            softmax = _Softmax(rows, columns, direct=ctx.direct)
            for tile in tiles:
                weights = softmax.weights(tile)
                if spread is not None:
                    spread_of_rows = tiles.own(spread)[tile.rows, None]
                    weights.sub_(spread_of_rows + spread[None, tile.columns], alpha=smoothing)
                if tile.masked is not None:
                    weights.masked_fill_(tile.masked, 0)
                accumulate(tile, weights, tiles, images_out, texts_out)

            # The label on the diagonal counts in both directions.
            label = 2 * (1 - smoothing)
            images_out.sub_(inputs.own_texts, alpha=label)
            # Until here these are the gradients of all texts, by the images of this rank alone.
            texts_out = scatter_sum(texts_out).sub_(inputs.images, alpha=label)

            like = (images, texts, temperature)
            of_inputs = scaled_gradients(
                gradients[0], inputs, images_out, texts_out, 2 * batch, like
            )
            return (*of_inputs, *NO_GRADIENTS)


class _Softmax:
    """The sum of both directions' softmax of a tile's logits."""

    def __init__(self, rows: Tensor, columns: Tensor, *, direct: bool) -> None:
        self.direct = direct
        self.rows = torch.exp(-rows) if direct else rows
        self.columns = torch.exp(-columns) if direct else columns

    def weights(self, tile: Tile) -> Tensor:
        """Overwrites the tile's logits."""
        row = self.rows[tile.rows, None]
        column = self.columns[None, tile.columns]
        # exp(x - log s) = exp(x) / s: one exponential serves the row and the column.
        if self.direct:
            return tile.logits.exp_().mul_(row + column)
        # Here a second tile is held.
        return (tile.logits - column).exp_().add_(tile.logits.sub_(row).exp_())


class _Sums(NamedTuple):
    """Log-sum-exps, and the logits that label smoothing takes.

    Attributes:
        rows: `[n]`, of this rank's rows.
        columns: `[B]`, over all ranks.
        smoothed: Σ logit · (spread of its row + of its column), over this rank's rows; 0 unless
            smoothing is spread over unmasked columns only.
    """

    rows: Tensor
    columns: Tensor
    smoothed: Tensor


def _log_sum_exps(tiles: Tiles, spread: Tensor | None, *, direct: bool) -> _Sums:
    start = 0.0 if direct else -math.inf
    rows = tiles.images.new_full((len(tiles.images),), start)
    columns = tiles.texts.new_full((len(tiles.texts),), start)
    smoothed = tiles.images.new_zeros(())

    for tile in tiles:
        # First: what follows overwrites the logits.
        if spread is not None:
            assert tile.masked is not None
            kept = tile.logits.masked_fill(tile.masked, 0)
            smoothed += tiles.own(spread)[tile.rows] @ kept.sum(1)
            smoothed += spread[tile.columns] @ kept.sum(0)

        if direct:
            exponentials = tile.logits.exp_()
            if tile.masked is not None:
                exponentials.masked_fill_(tile.masked, 0)
            rows[tile.rows] += exponentials.sum(1)
            columns[tile.columns] += exponentials.sum(0)
        else:
            if tile.masked is not None:
                tile.logits.masked_fill_(tile.masked, -math.inf)
            # A running log-sum-exp: tiles of one row come one after the other.
            rows[tile.rows] = torch.logaddexp(rows[tile.rows], tile.logits.logsumexp(1))
            columns[tile.columns] = torch.logaddexp(columns[tile.columns], tile.logits.logsumexp(0))

    if direct:
        rows = rows.log_()
        columns = columns.log_()
    return _Sums(rows, _combine(columns), smoothed)


def _combine(columns: Tensor) -> Tensor:
    """The log Σ exp over ranks of each column, whatever its size."""
    if world_size() == 1:
        return columns
    # Ranks sum what they have of a column; shifted by its largest, no exponential overflows.
    largest = all_reduce_(columns.clone(), "max")
    return all_reduce_((columns - largest).exp_()).log_().add_(largest)


_contrastive = outside_graphs(_Contrastive.apply)


class ContrastiveLoss(GlobalLoss):
    """Mean image-to-text and text-to-image cross-entropy over the global batch.

    The value is the same on every rank. Strategies average gradients over ranks, so backward gives
    world size × this rank's share: averaged, the gradients of towers and temperature equal those of
    one process with the whole batch.
    """

    def __init__(
        self,
        *,
        label_smoothing: float = 0.1,
        tile: int | None = None,
        mask_duplicates: bool = False,
    ) -> None:
        """Sets smoothing, tile and the treatment of duplicates.

        Args:
            label_smoothing: The share in [0, 1) of each label that is spread over the global batch
                (paper: 0.1), or with `mask_duplicates` over the columns that are not masked.
            tile: Held are `tile` × `tile` logits at a time: with fewer rows, more columns; None:
                1024 on a CPU, 4096 on a GPU.
            mask_duplicates: True: pairs with the same image or the same text elsewhere in the
                global batch are not taken for negatives of each other.

        Raises:
            ValueError: A value lies outside its range.
        """
        super().__init__(tile=tile, mask_duplicates=mask_duplicates)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), found {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(
        self,
        image_embeddings: Tensor,
        text_embeddings: Tensor,
        temperature: Tensor,
        *,
        image_ids: Tensor | None = None,
        text_ids: Tensor | None = None,
    ) -> Tensor:
        """The loss of the global batch. Collective.

        Args:
            image_embeddings: L2-normalised `[device batch, dim]`, as many on every rank.
            text_embeddings: L2-normalised `[device batch, dim]`.
            temperature: `[1]`.
            image_ids: int64 `[device batch]`, equal if the content is.
            text_ids: As `image_ids`, of texts.

        Returns:
            A scalar, float32 at least.
        """
        ids = self._ids(image_ids, text_ids)
        side = self._side(image_embeddings.device)
        loss: Tensor = _contrastive(
            image_embeddings, text_embeddings, temperature, self.label_smoothing, side, ids
        )
        return loss
