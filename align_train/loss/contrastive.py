"""The losses over the global batch: exact, and never a matrix of batch × batch.

`ContrastiveLoss` is ALIGN's (paper, section 4.2): each picture should find its own text among all texts of the global batch
and each text its own picture; two cross-entropies with logits = cosine / temperature, label smoothing over the global batch,
and the mean of both directions (the paper writes their sum). `SigmoidLoss` is SigLIP's (Zhai et al. 2023).
`ClassificationLoss` is a classifier's, and plain.

How: texts are gathered, pictures stay where they are. A tile of a rank's rows of logits is made by one matmul, in a buffer
that the next tile reuses, and serves both directions: the sums of its rows, and of its columns, which one all-reduce
completes. Backward makes the tiles again; what it finds for the texts returns to their ranks by reduce-scatter. Label
smoothing needs only sums of embeddings (closed form). One exponential per tile, without a shift, serves rows and columns
while float32 can hold it (temperature ≥ about 1/74 for a batch of 65,536); below that each takes its own maximum.

Price per rank, with device batch n, global batch B, dimension d, world W: 2·n·B·d floating-point operations forward and
6·n·B·d backward (the usual form: 4 and 8, and two matrices n × B kept). Kept between them: the embeddings of this rank,
the B·d gathered texts (W > 1) and n + B log-sum-exps; while at work one or two tiles and, backward, the gradients (B + n)·d.
Sent: n·d numbers gathered, B·d reduce-scattered, 2·B all-reduced for the columns (none for the sigmoid), one for the value.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from align_train.cluster.collectives import all_reduce_, scatter_sum, world_size
from align_train.loss.tiles import (
    NONE,
    Duplicates,
    GlobalLoss,
    Inputs,
    Tiles,
    accumulate,
    outside_graphs,
    scaled_gradients,
)


class _Contrastive(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        texts: Tensor,
        temperature: Tensor,
        smoothing: float,
        size: int,
        ids: Any,
    ) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            given = Inputs.of(images, texts, temperature)
            duplicates = Duplicates(*ids) if ids is not None else None
            tiles = Tiles(given.images, given.texts, given.scale, size, duplicates)
            direct, batch = tiles.within_range(), len(given.texts)
            spread = (
                1 / duplicates.unmasked().to(given.images.dtype)
                if duplicates and smoothing
                else None
            )
            rows, columns, smoothed = _log_sum_exps(tiles, spread, direct=direct)
            if spread is None:
                smoothed = 2 / batch * given.scale[0] * (given.images.sum(0) @ given.texts.sum(0))
            own = given.scale[0] * (given.images * given.own_texts).sum()
            # Of this rank's rows; the columns are complete on every rank.
            local = 0.5 * rows.sum() - (1 - smoothing) * own - 0.5 * smoothing * smoothed
            value = (all_reduce_(local) + 0.5 * columns.sum()) / batch
        ctx.save_for_backward(images, texts, temperature, given.texts, rows, columns, spread)
        ctx.smoothing, ctx.size, ctx.direct, ctx.duplicates = smoothing, size, direct, duplicates
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, temperature, gathered, rows, columns, spread = ctx.saved_tensors
        with torch.autocast(images.device.type, enabled=False):
            given = Inputs.of(images, texts, temperature, gathered)
            smoothing, batch = ctx.smoothing, len(given.texts)
            tiles = Tiles(given.images, given.texts, given.scale, ctx.size, ctx.duplicates)
            # In units of scale / (2·batch), which comes last.
            even = 2 * smoothing / batch if spread is None else 0.0
            images_out = (-even * given.texts.sum(0)).repeat(len(given.images), 1)
            texts_out = (-even * given.images.sum(0)).repeat(batch, 1)
            rows, columns = (
                (rows, columns) if not ctx.direct else (torch.exp(-rows), torch.exp(-columns))
            )
            for tile in tiles:
                row, column = rows[tile.rows, None], columns[None, tile.columns]
                if ctx.direct:
                    weights = tile.logits.exp_().mul_(row + column)
                else:
                    weights = (tile.logits - column).exp_().add_(tile.logits.sub_(row).exp_())
                if spread is not None:
                    weights.sub_(
                        tiles.own(spread)[tile.rows, None] + spread[None, tile.columns],
                        alpha=smoothing,
                    )
                if tile.masked is not None:
                    weights.masked_fill_(tile.masked, 0)
                accumulate(tile, weights, tiles, images_out, texts_out)
            label = 2 * (1 - smoothing)
            images_out.sub_(given.own_texts, alpha=label)
            texts_out = scatter_sum(texts_out).sub_(given.images, alpha=label)
            return (
                *scaled_gradients(
                    gradients[0],
                    given,
                    images_out,
                    texts_out,
                    2 * batch,
                    like=(images, texts, temperature),
                ),
                *NONE,
            )


def _log_sum_exps(
    tiles: Tiles, spread: Tensor | None, *, direct: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exps of this rank's rows `[n]` and of all columns, over all ranks, `[B]`; and where label smoothing is spread
    over unmasked columns only: Σ logit · (spread of its row + of its column) over this rank's rows."""
    start = 0.0 if direct else -math.inf
    rows, columns = (
        tiles.images.new_full((len(tiles.images),), start),
        tiles.texts.new_full((len(tiles.texts),), start),
    )
    smoothed = tiles.images.new_zeros(())
    for tile in tiles:
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
            rows[tile.rows] = torch.logaddexp(rows[tile.rows], tile.logits.logsumexp(1))
            columns[tile.columns] = torch.logaddexp(columns[tile.columns], tile.logits.logsumexp(0))
    if direct:
        rows, columns = rows.log_(), columns.log_()
    return rows, _combine(columns), smoothed


def _combine(columns: Tensor) -> Tensor:
    """log Σ exp over ranks of each column, whatever its size."""
    if world_size() == 1:
        return columns
    largest = all_reduce_(columns.clone(), "max")
    return all_reduce_((columns - largest).exp_()).log_().add_(largest)


_contrastive = outside_graphs(_Contrastive.apply)


class ContrastiveLoss(GlobalLoss):
    """Mean image-to-text and text-to-image cross-entropy over the global batch.

    The value is the same on every rank. Engines average gradients over ranks, so backward gives world × this rank's share:
    averaged, tower and temperature gradients equal those of one process with the whole batch. label_smoothing: spread over
    the global batch (paper: 0.1), or with mask_duplicates over what is not masked.
    """

    def __init__(
        self, *, label_smoothing: float = 0.1, tile: int = 1024, mask_duplicates: bool = False
    ) -> None:
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
        """image_embeddings, text_embeddings: L2-normalised `[device batch, dim]`, as many on every rank; temperature: `[1]`;
        image_ids, text_ids: int64 `[device batch]`, equal where the content is. Returns a scalar, float32 at least."""
        ids = self._ids(image_ids, text_ids)
        loss: Tensor = _contrastive(
            image_embeddings, text_embeddings, temperature, self.label_smoothing, self.tile, ids
        )
        return loss
