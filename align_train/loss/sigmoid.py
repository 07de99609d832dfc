from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

from align_train.cluster.collectives import all_reduce_, scatter_sum, world_size
from align_train.loss.tiles import (
    Duplicates,
    GlobalLoss,
    Inputs,
    Tiles,
    accumulate,
    outside_graphs,
    scaled_gradients,
)


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        texts: Tensor,
        temperature: Tensor,
        bias: Tensor,
        size: int,
        ids: Any,
    ) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            given = Inputs.of(images, texts, temperature)
            duplicates = Duplicates(*ids) if ids is not None else None
            offset = bias.to(given.scale.dtype)
            # -log sigmoid(-x) of every pair, and -x more for those that belong together.
            own = given.scale[0] * (given.images * given.own_texts).sum() + len(images) * offset[0]
            local = -own
            for tile in Tiles(given.images, given.texts, given.scale, size, duplicates):
                losses = logsigmoid(tile.logits.add_(offset).neg_())
                local -= (
                    losses if tile.masked is None else losses.masked_fill_(tile.masked, 0)
                ).sum()
            value = all_reduce_(local) / len(given.texts)
        ctx.save_for_backward(images, texts, temperature, bias, given.texts)
        ctx.size, ctx.duplicates = size, duplicates
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, temperature, bias, gathered = ctx.saved_tensors
        with torch.autocast(images.device.type, enabled=False):
            given = Inputs.of(images, texts, temperature, gathered)
            offset, batch = bias.to(given.scale.dtype), len(given.texts)
            images_out, texts_out = torch.zeros_like(given.images), torch.zeros_like(given.texts)
            total = -offset.new_full((1,), len(images))
            tiles = Tiles(given.images, given.texts, given.scale, ctx.size, ctx.duplicates)
            for tile in tiles:
                weights = tile.logits.add_(offset).sigmoid_()
                if tile.masked is not None:
                    weights.masked_fill_(tile.masked, 0)
                total += weights.sum()
                accumulate(tile, weights, tiles, images_out, texts_out)
            images_out.sub_(given.own_texts)
            texts_out = scatter_sum(texts_out).sub_(given.images)
            found = scaled_gradients(
                gradients[0], given, images_out, texts_out, batch, like=(images, texts, temperature)
            )
            bias_out = (gradients[0].to(total.dtype) * total * world_size() / batch).to(bias.dtype)
            return (*found, bias_out, None, None)


_sigmoid = outside_graphs(_Sigmoid.apply)


class SigmoidLoss(GlobalLoss):
    """SigLIP's loss (Zhai et al. 2023, arXiv 2303.15343, algorithm 1): every picture with every text is a yes or a no.

    The sum of -log sigmoid(±(cosine / temperature + bias)) over all pairs, by the global batch. Value and gradients as in
    `ContrastiveLoss`. The learned bias begins at -10 there, since most answers are a no, and the temperature at 0.1.
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
        """As `ContrastiveLoss.forward`; bias: `[1]`."""
        ids = self._ids(image_ids, text_ids)
        loss: Tensor = _sigmoid(
            image_embeddings, text_embeddings, temperature, bias, self.tile, ids
        )
        return loss
