"""Distillation over the global batch: exact, and never a matrix batch × batch.

A student should find images and texts alike to the degree that its teacher does: the mean of two
Kullback-Leibler divergences. One compares the softmax of each image's logits over all texts, the
other that of each text's over all images (MobileCLIP, arXiv 2311.17049, equation 3; open_clip's
`DistillClipLoss` is the same up to the teacher's entropy, which has no gradient). It is 0 where the
student agrees with its teacher.

How: as `contrastive.py`, with a tile of the teacher's logits beside each tile of the student's. One
pass over the tiles finds both directions' sums (`divergence.py`). Backward makes both tiles again.

Price per rank, with device batch n, global batch B, dimensions d (student) and t (teacher):

- Operations: 2·n·B·(d + t) forward and 2·n·B·(3·d + t) backward.
- Kept between both: the B·(d + t) gathered texts, and 2·(n + B) log-sum-exps.
- At work: two tiles, and a few of their size; backward, the gradients (B + n)·d.
- Sent: n·(d + t) numbers gathered, B·d reduce-scattered, 5·B all-reduced for the columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import normalize

from align_train.cluster.collectives import all_reduce_, gather, scatter_sum
from align_train.loss.divergence import Direction, side_by_side
from align_train.loss.tiles import (
    Inputs,
    Tiles,
    accumulate,
    outside_graphs,
    scaled_gradients,
    usual_side,
)


class Taught(NamedTuple):
    """A teacher's embeddings of a device batch.

    Attributes:
        images: `[device batch, teacher's dim]`, L2-normalised.
        texts: The same, of the texts.
        known: bool `[device batch]`: False for a pair that the teacher has no embeddings of; None:
            it has all.
    """

    images: Tensor
    texts: Tensor
    known: Tensor | None = None


def _tiles_of_teacher(
    images: Tensor, gathered: Tensor, temperature: float, like: Inputs, size: int
) -> Tiles:
    """The teacher's logits. gathered: its texts of the global batch."""
    dtype = like.images.dtype
    scale = like.scale.new_full((1,), 1 / temperature)
    return Tiles(_unit(images, dtype), _unit(gathered, dtype), scale, size, None)


def _unit(embeddings: Tensor, dtype: torch.dtype) -> Tensor:
    # Again: stored in 16 bits, their norm is 1 to three digits only. A pair without embeddings has
    # zeros, or no numbers at all, which a product of matrices would spread.
    unit: Tensor = normalize(embeddings.to(dtype).nan_to_num(0.0), dim=-1)
    return unit


class _Context(FunctionCtx):
    """What forward leaves for backward."""

    saved_tensors: tuple[Tensor, ...]
    teacher_temperature: float
    size: int

    # torch takes None, too, against its own type.
    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        images: Tensor,
        texts: Tensor,
        temperature: Tensor,
        taught: Taught,
        teacher_temperature: float,
        size: int,
    ) -> Tensor:
        # Logits want float32 even if the towers run in bf16.
        with torch.autocast(images.device.type, enabled=False):
            inputs = Inputs.of(images, texts, temperature)
            batch = len(inputs.texts)
            # A teacher may answer in other types on other ranks: zeros where memory has run out.
            teacher_texts = gather(taught.texts.to(inputs.images.dtype))
            known, count = None, torch.full_like(inputs.scale[0], batch)
            if taught.known is not None:
                # Collectives know no truth values.
                known = gather(taught.known.to(torch.uint8)).bool()
                count = known.sum().clamp_min(1).to(count.dtype)

            student = Tiles(inputs.images, inputs.texts, inputs.scale, size, None)
            teacher = _tiles_of_teacher(
                taught.images, teacher_texts, teacher_temperature, inputs, size
            )
            rows = Direction(inputs.images, len(images))
            columns = Direction(inputs.images, batch)
            for tiles in side_by_side(student, teacher, known):
                difference = tiles.teacher - tiles.student.logits
                if tiles.unknown is not None:
                    difference.masked_fill_(tiles.unknown, 0)
                rows.add(tiles, difference, tiles.student.rows, over=1)
                columns.add(tiles, difference, tiles.student.columns, over=0)
            columns.complete()

            # Of this rank's rows; the columns are complete on every rank.
            local = all_reduce_(rows.divergences().sum())
            value = 0.5 * (local + columns.divergences().sum()) / count

        sums = (rows.log_sum_exps(), columns.log_sum_exps(), count)
        ctx.save_for_backward(
            images, texts, temperature, inputs.texts, taught.images, teacher_texts, known, *sums
        )
        ctx.teacher_temperature = teacher_temperature
        ctx.size = size
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, temperature, gathered, *others = ctx.saved_tensors
        teacher_images, teacher_texts, known, rows, columns, count = others

        with torch.autocast(images.device.type, enabled=False):
            inputs = Inputs.of(images, texts, temperature, gathered)
            student = Tiles(inputs.images, inputs.texts, inputs.scale, ctx.size, None)
            teacher = _tiles_of_teacher(
                teacher_images, teacher_texts, ctx.teacher_temperature, inputs, ctx.size
            )

            # In units of scale / (2·count), which comes last: the student's softmax minus the
            # teacher's, of rows and of columns.
            images_out = torch.zeros_like(inputs.images)
            texts_out = torch.zeros_like(inputs.texts)
            for tiles in side_by_side(student, teacher, known):
                tile = tiles.student
                weights = torch.zeros_like(tile.logits)
                for side, logits in enumerate((tile.logits, tiles.teacher)):
                    sign = 1 - 2 * side
                    weights.add_((logits - rows[side, tile.rows, None]).exp_(), alpha=sign)
                    weights.add_((logits - columns[side, None, tile.columns]).exp_(), alpha=sign)
                if tiles.unknown is not None:
                    weights.masked_fill_(tiles.unknown, 0)
                accumulate(tile, weights, student, images_out, texts_out)

            # Until here these are the gradients of all texts, by the images of this rank alone.
            texts_out = scatter_sum(texts_out)
            like = (images, texts, temperature)
            of_inputs = scaled_gradients(
                gradients[0], inputs, images_out, texts_out, 2 * count, like
            )
            return (*of_inputs, None, None, None)


_distillation = outside_graphs(_Distillation.apply)


class DistillationLoss(nn.Module):
    """How far a student's softmax over the global batch is from its teacher's.

    The value is the same on every rank; the backward pass gives world size × this rank's share, as
    that of `ContrastiveLoss`. Pairs that the teacher has no embeddings of take no part: neither as
    rows nor as columns.
    """

    def __init__(self, *, tile: int | None = None) -> None:
        """Sets the size of a tile.

        Args:
            tile: Held are `tile` × `tile` logits of student and teacher at a time; None: as of the
                other losses.
        """
        super().__init__()
        self.tile = tile

    def forward(
        self,
        image_embeddings: Tensor,
        text_embeddings: Tensor,
        temperature: Tensor,
        taught: Taught,
        teacher_temperature: float,
    ) -> Tensor:
        """The divergence, averaged over the global batch and both directions. Collective.

        Args:
            image_embeddings: The student's, L2-normalised `[device batch, dim]`, as many on every
                rank.
            text_embeddings: The student's, L2-normalised `[device batch, dim]`.
            temperature: The student's, `[1]`.
            taught: The teacher's embeddings of the same pairs.
            teacher_temperature: The number that the teacher's cosines are divided by.

        Returns:
            A scalar, float32 at least.
        """
        side = self.tile or usual_side(image_embeddings.device.type)
        loss: Tensor = _distillation(
            image_embeddings, text_embeddings, temperature, taught, teacher_temperature, side
        )
        return loss
