"""SigLIP's loss over the global batch (Zhai et al. 2023, arXiv 2303.15343, algorithm 1).

How and at what price: as `contrastive.py`, tile by tile, but columns need no sums over ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import logsigmoid

from align_train.cluster.collectives import all_reduce_, scatter_sum, world_size
from align_train.loss.duplicates import Duplicates
from align_train.loss.tiles import (
    GlobalLoss,
    Inputs,
    Tiles,
    accumulate,
    outside_graphs,
    scaled_gradients,
)


class _Context(FunctionCtx):
    """What forward leaves for backward."""

    saved_tensors: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    size: int
    duplicates: Duplicates | None


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        images: Tensor,
        texts: Tensor,
        temperature: Tensor,
        bias: Tensor,
        size: int,
        ids: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        # Logits want float32 even if the towers run in bf16.
        with torch.autocast(images.device.type, enabled=False):
            inputs = Inputs.of(images, texts, temperature)
            duplicates = Duplicates(*ids) if ids is not None else None
            offset = bias.to(inputs.scale.dtype)

            # -log sigmoid(-x) of every pair, and -x more for those that belong together.
            cosines = (inputs.images * inputs.own_texts).sum()
            local = -(inputs.scale[0] * cosines + len(images) * offset[0])
            for tile in Tiles(inputs.images, inputs.texts, inputs.scale, size, duplicates):
                # In place: the next tile overwrites the logits anyway.
                losses = logsigmoid(tile.logits.add_(offset).neg_())
                if tile.masked is not None:
                    losses = losses.masked_fill_(tile.masked, 0)
                local -= losses.sum()
            value = all_reduce_(local) / len(inputs.texts)

        ctx.save_for_backward(images, texts, temperature, bias, inputs.texts)
        ctx.size = size
        ctx.duplicates = duplicates
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, temperature, bias, gathered = ctx.saved_tensors

        with torch.autocast(images.device.type, enabled=False):
            inputs = Inputs.of(images, texts, temperature, gathered)
            batch = len(inputs.texts)
            offset = bias.to(inputs.scale.dtype)

            # d/dx -log sigmoid(-x) = sigmoid(x) for every pair; one less for those on the diagonal.
            images_out = torch.zeros_like(inputs.images)
            texts_out = torch.zeros_like(inputs.texts)
            # The sum of all weights is the gradient of the bias.
            total = -offset.new_full((1,), len(images))
            tiles = Tiles(inputs.images, inputs.texts, inputs.scale, ctx.size, ctx.duplicates)
            for tile in tiles:
                weights = tile.logits.add_(offset).sigmoid_()
                if tile.masked is not None:
                    weights.masked_fill_(tile.masked, 0)
                total += weights.sum()
                accumulate(tile, weights, tiles, images_out, texts_out)

            images_out.sub_(inputs.own_texts)
            texts_out = scatter_sum(texts_out).sub_(inputs.images)

            like = (images, texts, temperature)
            of_inputs = scaled_gradients(gradients[0], inputs, images_out, texts_out, batch, like)
            # World size × the share: strategies average this parameter over ranks too.
            of_bias = gradients[0].to(total.dtype) * total * world_size() / batch
            return (*of_inputs, of_bias.to(bias.dtype), None, None)


_sigmoid = outside_graphs(_Sigmoid.apply)


class SigmoidLoss(GlobalLoss):
    """Every image with every text is a yes or a no.

    The sum of -log sigmoid(±(cosine / temperature + bias)) over all pairs, by the global batch.
    Value and gradients are those of one process, as of `ContrastiveLoss`. In the paper the learned
    bias begins at -10, since most answers are a no, and the temperature at 0.1.
    """

    needs_bias = True

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
        """The loss of the global batch. Collective.

        Args:
            image_embeddings: L2-normalised `[device batch, dim]`, as many on every rank.
            text_embeddings: L2-normalised `[device batch, dim]`.
            temperature: `[1]`.
            bias: `[1]`.
            image_ids: int64 `[device batch]`, equal if the content is.
            text_ids: As `image_ids`, of texts.

        Returns:
            A scalar, float32 at least.
        """
        ids = self._ids(image_ids, text_ids)
        side = self._side(image_embeddings.device)
        loss: Tensor = _sigmoid(image_embeddings, text_embeddings, temperature, bias, side, ids)
        return loss
