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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, logsigmoid

from align_train.distributed import all_reduce_, gather, rank, scatter_sum, world_size

# exp(x) neither overflows nor loses digits for |x| below this.
_EXPONENT = {torch.float32: 85.0, torch.float64: 700.0}


class _Duplicates:
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
        alike = sum((_count_equal(ids) * sign for ids, sign in ((self.images, 1), (self.texts, 1), (kinds, -1))), start=0)
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
class _Tiles:
    """This rank's rows of logits = scale · images · textsᵀ, tile by tile, in one buffer that the next tile overwrites."""

    images: Tensor  # [n, d]
    texts: Tensor  # [B, d]
    scale: Tensor  # [1]
    size: int
    duplicates: _Duplicates | None

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
                yield _Tile(rows, columns, logits, self.duplicates.mask(rows, columns) if self.duplicates else None)

    def own(self, of_all: Tensor) -> Tensor:
        """This rank's part of what is known of every pair, `[B]` -> `[n]`."""
        return of_all[rank() * len(self.images) :][: len(self.images)]

    def within_range(self) -> bool:
        """Whether the plain exponential of any logit, and sums of them, can be held (|logit| ≤ scale · norm · norm)."""
        if not len(self.images):
            return True
        largest = self.scale * self.images.norm(dim=1).max() * self.texts.norm(dim=1).max()
        return bool(largest + math.log(len(self.texts)) <= _EXPONENT[self.images.dtype])


def _accumulate(tile: _Tile, weights: Tensor, tiles: _Tiles, images_out: Tensor, texts_out: Tensor) -> None:
    """Adds what one tile of d loss / d logits asks of the embeddings (without the scale)."""
    images_out[tile.rows].addmm_(weights, tiles.texts[tile.columns])
    texts_out[tile.columns].addmm_(weights.T, tiles.images[tile.rows])


class _Inputs(NamedTuple):
    """What both losses begin with: embeddings in float32 at least (bf16 logits at scale 100 have 11 % gradient error)."""

    images: Tensor
    own_texts: Tensor
    texts: Tensor
    scale: Tensor

    @classmethod
    def of(cls, images: Tensor, texts: Tensor, temperature: Tensor, gathered: Tensor | None = None) -> _Inputs:
        dtype = torch.promote_types(images.dtype, torch.float32)
        texts = texts.to(dtype)
        every = gather(texts) if gathered is None else gathered.to(dtype)
        return cls(images.to(dtype), texts, every, 1 / temperature.to(dtype))


class _Contrastive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, texts: Tensor, temperature: Tensor, smoothing: float, size: int, ids: Any) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            given = _Inputs.of(images, texts, temperature)
            duplicates = _Duplicates(*ids) if ids is not None else None
            tiles = _Tiles(given.images, given.texts, given.scale, size, duplicates)
            direct, batch = tiles.within_range(), len(given.texts)
            spread = 1 / duplicates.unmasked().to(given.images.dtype) if duplicates and smoothing else None
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
            given = _Inputs.of(images, texts, temperature, gathered)
            smoothing, batch = ctx.smoothing, len(given.texts)
            tiles = _Tiles(given.images, given.texts, given.scale, ctx.size, ctx.duplicates)
            # In units of scale / (2·batch), which comes last.
            even = 2 * smoothing / batch if spread is None else 0.0
            images_out = (-even * given.texts.sum(0)).repeat(len(given.images), 1)
            texts_out = (-even * given.images.sum(0)).repeat(batch, 1)
            rows, columns = (rows, columns) if not ctx.direct else (torch.exp(-rows), torch.exp(-columns))
            for tile in tiles:
                row, column = rows[tile.rows, None], columns[None, tile.columns]
                if ctx.direct:
                    weights = tile.logits.exp_().mul_(row + column)
                else:
                    weights = (tile.logits - column).exp_().add_(tile.logits.sub_(row).exp_())
                if spread is not None:
                    weights.sub_(tiles.own(spread)[tile.rows, None] + spread[None, tile.columns], alpha=smoothing)
                if tile.masked is not None:
                    weights.masked_fill_(tile.masked, 0)
                _accumulate(tile, weights, tiles, images_out, texts_out)
            label = 2 * (1 - smoothing)
            images_out.sub_(given.own_texts, alpha=label)
            texts_out = scatter_sum(texts_out).sub_(given.images, alpha=label)
            return (*_scaled(gradients[0], given, images_out, texts_out, 2 * batch, like=(images, texts, temperature)), *_NONE)


_NONE = (None, None, None)


def _scaled(
    gradient: Tensor, given: _Inputs, images_out: Tensor, texts_out: Tensor, denominator: int, like: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Gradients of images, texts and temperature, as an engine wants them that averages over ranks: world × the share.

    d loss / d scale = Σ image · (d loss / d image) / scale, and scale = 1 / temperature.
    """
    factor = gradient.to(given.scale.dtype) * given.scale * world_size() / denominator
    images_out.mul_(factor)
    texts_out.mul_(factor)
    temperature_out = -given.scale * (given.images * images_out).sum()
    return tuple(out.to(source.dtype) for out, source in zip((images_out, texts_out, temperature_out), like, strict=True))


def _log_sum_exps(tiles: _Tiles, spread: Tensor | None, *, direct: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exps of this rank's rows `[n]` and of all columns, over all ranks, `[B]`; and where label smoothing is spread
    over unmasked columns only: Σ logit · (spread of its row + of its column) over this rank's rows."""
    start = 0.0 if direct else -math.inf
    rows, columns = tiles.images.new_full((len(tiles.images),), start), tiles.texts.new_full((len(tiles.texts),), start)
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


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, texts: Tensor, temperature: Tensor, bias: Tensor, size: int, ids: Any) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            given = _Inputs.of(images, texts, temperature)
            duplicates = _Duplicates(*ids) if ids is not None else None
            offset = bias.to(given.scale.dtype)
            # -log sigmoid(-x) of every pair, and -x more for those that belong together.
            own = given.scale[0] * (given.images * given.own_texts).sum() + len(images) * offset[0]
            local = -own
            for tile in _Tiles(given.images, given.texts, given.scale, size, duplicates):
                losses = logsigmoid(tile.logits.add_(offset).neg_())
                local -= (losses if tile.masked is None else losses.masked_fill_(tile.masked, 0)).sum()
            value = all_reduce_(local) / len(given.texts)
        ctx.save_for_backward(images, texts, temperature, bias, given.texts)
        ctx.size, ctx.duplicates = size, duplicates
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, temperature, bias, gathered = ctx.saved_tensors
        with torch.autocast(images.device.type, enabled=False):
            given = _Inputs.of(images, texts, temperature, gathered)
            offset, batch = bias.to(given.scale.dtype), len(given.texts)
            images_out, texts_out = torch.zeros_like(given.images), torch.zeros_like(given.texts)
            total = -offset.new_full((1,), len(images))
            tiles = _Tiles(given.images, given.texts, given.scale, ctx.size, ctx.duplicates)
            for tile in tiles:
                weights = tile.logits.add_(offset).sigmoid_()
                if tile.masked is not None:
                    weights.masked_fill_(tile.masked, 0)
                total += weights.sum()
                _accumulate(tile, weights, tiles, images_out, texts_out)
            images_out.sub_(given.own_texts)
            texts_out = scatter_sum(texts_out).sub_(given.images)
            scaled = _scaled(gradients[0], given, images_out, texts_out, batch, like=(images, texts, temperature))
            bias_out = (gradients[0].to(total.dtype) * total * world_size() / batch).to(bias.dtype)
            return (*scaled, bias_out, None, None)


# A graph compiled around them is broken here: matmuls and collectives are nothing that a compiler could fuse.
_outside_graphs: Any = torch.compiler.disable
_contrastive, _sigmoid = _outside_graphs(_Contrastive.apply), _outside_graphs(_Sigmoid.apply)


class _GlobalLoss(nn.Module):
    """tile: rows and columns of logits at a time; a tile is what is held of them. mask_duplicates: pairs with the same picture
    or the same text elsewhere in the global batch are not taken for negatives of each other."""

    def __init__(self, *, tile: int = 1024, mask_duplicates: bool = False) -> None:
        super().__init__()
        if tile < 1:
            raise ValueError(f"tile={tile}: expected at least 1")
        self.tile, self.mask_duplicates = tile, mask_duplicates

    def _ids(self, image_ids: Tensor | None, text_ids: Tensor | None) -> tuple[Tensor, Tensor] | None:
        if not self.mask_duplicates:
            return None
        if image_ids is None or text_ids is None:
            raise ValueError("loss.mask_duplicates needs to know which contents are the same: image_ids and text_ids")
        return image_ids, text_ids


class ContrastiveLoss(_GlobalLoss):
    """Mean image-to-text and text-to-image cross-entropy over the global batch.

    The value is the same on every rank. Engines average gradients over ranks, so backward gives world × this rank's share:
    averaged, tower and temperature gradients equal those of one process with the whole batch. label_smoothing: spread over
    the global batch (paper: 0.1), or with mask_duplicates over what is not masked.
    """

    def __init__(self, *, label_smoothing: float = 0.1, tile: int = 1024, mask_duplicates: bool = False) -> None:
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
        loss: Tensor = _contrastive(image_embeddings, text_embeddings, temperature, self.label_smoothing, self.tile, ids)
        return loss


class SigmoidLoss(_GlobalLoss):
    """SigLIP's loss (Zhai et al. 2023, arXiv 2303.15343, algorithm 1): every picture with every text is a yes or a no.

    The sum of -log sigmoid(±(cosine / temperature + bias)) over all pairs, by the global batch. Value and gradients as in
    `ContrastiveLoss`. The learned bias begins at -10 there, since most answers are a no, and the temperature at 0.1.
    """

    def forward(
        self,
        image_embeddings: Tensor,
        text_embeddings: Tensor,
        temperature: Tensor,
        bias: Tensor,
        *,
        image_ids: Tensor | None = None,
        text_ids: Tensor | None = None,
    ) -> Tensor:
        """As `ContrastiveLoss.forward`; bias: `[1]`."""
        ids = self._ids(image_ids, text_ids)
        loss: Tensor = _sigmoid(image_embeddings, text_embeddings, temperature, bias, self.tile, ids)
        return loss


class ClassificationLoss(nn.Module):
    """Mean cross-entropy of a classifier over the global batch.

    The value is the same on every rank; backward gives the gradient of this rank's mean, which engines average.
    label_smoothing: spread over all classes.
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), found {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(
        self, logits: Tensor, labels: Tensor, *, image_ids: Tensor | None = None, text_ids: Tensor | None = None
    ) -> Tensor:
        """logits `[device batch, classes]`; labels: shares of the classes, of the same shape. The ids are of no use here."""
        own = cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        everywhere = all_reduce_(own.detach().clone()) / world_size()
        return own + (everywhere - own.detach())
