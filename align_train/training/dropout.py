"""Dropout by pair: a layer drops by the recipe alone, whatever chunk, rank and strategy.

A layer draws from (seed, step, the pair's place in the global batch, its own name in the model), by
a hash in plain tensor operations. No generator is seeded and none moves. A second pass of a pair
drops the same elements, in another chunk, on another rank or in a compiled block.

- *A row word* for each layer and pair of a pass, a *column word* for each element of one pair's
  tensor: odd 32-bit integers that wrap. An element is kept if row x column, as a signed integer,
  reaches the layer's threshold.
- *Why a product*: the product of two independent uniform odd words is a uniform odd word. Any two
  elements are therefore independent over the draw of the words: of two pairs, of two layers, of two
  steps, or of one pair. In eager mode a mask costs two operations of its size, whatever the quality
  of the words' hash.
- *Columns* depend on an element's coordinates only, not on the tensor's size. A text has the same
  mask however far its chunk is padded. Every layer and step has the same columns; the rows differ.

Limits: a pair's mask is one of 2^31. Column words are the same in every step. In a tensor of 50,000
elements about one couple of elements has equal words, or words of a small ratio: their decisions go
together, in every step. A layer that the model calls twice in a pass drops the same elements twice
(timm's MLP-Mixer does that with drop path).

Price for each layer: two operations of the mask's size (integers, then booleans), then one
operation that keeps and scales; `python -m benchmarks.dropout` compares that with torch's dropout.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from align_train.errors import UserError
from align_train.training.hashing import columns


class DropoutByPair(nn.Module):
    """Dropout, of elements, of whole channels or of whole pairs, by the words of each pair.

    It has no parameters and no buffers, so a model's state has the same names with it.

    Attributes:
        p: The share that is dropped, above 0. BERT's attention reads it.
        row: int32 `[pairs]`, this layer's words of the pass under way; None before the first.
        factor: `[pairs]`, 0 or the scale, if the layer drops whole pairs; else None.
        threshold: A scalar int32 tensor: the smallest product that is kept.
        scale: A scalar float64 tensor: the factor of what is kept.
    """

    row: Tensor | None = None
    factor: Tensor | None = None
    threshold: Tensor
    scale: Tensor

    def __init__(self, p: float, *, name: str, masked: int | None = None, rescale: bool = True):
        """Derives threshold and scale.

        Args:
            p: The share that is dropped, above 0 and at most 1.
            name: Of the layer in its model, for errors.
            masked: Leading dimensions of the input that have a word of their own; the others are
                dropped together. None: all have one.
            rescale: True: the rest is scaled by 1 / (1 - p).
        """
        super().__init__()
        self.p = p
        self.name = name
        self.masked = masked

        # One below 2^31 for p = 1, where the scale drops all.
        self.threshold_value = min(-(2**31) + round(p * 2**32), 2**31 - 1)
        self.scale_value = 0.0 if p == 1 else 1.0
        if rescale and p < 1:
            self.scale_value = 1 / (1 - p)

    def forward(self, x: Tensor) -> Tensor:
        """Drops elements of the input in training mode.

        Args:
            x: `[pairs, ...]`, or `[pairs * windows, ...]`, the windows of a pair side by side.

        Returns:
            A tensor of the same shape and type.

        Raises:
            UserError: The first dimension is not a multiple of the pass's pairs.
        """
        if not self.training:
            return x
        if self.row is None:
            raise RuntimeError(f"{self.name}: no pass is set; see RandomLayers.set_pass")
        if self.factor is not None and len(self.factor) == len(x):
            return x * self.factor.to(x.dtype).view(-1, *(1,) * (x.dim() - 1))

        # The compiler would make a version of its block for each p that it meets as a number. It
        # fuses all of this; eager mode does with less.
        if torch.compiler.is_compiling():
            return x * (self._products(x, self.row) >= self.threshold) * self.scale
        kept = self._products(x, self.row) >= self.threshold_value
        if self.masked is not None:  # a small mask, whose size costs nothing
            return x * (kept.to(x.dtype) * self.scale_value)
        dropped: Tensor = _KeepAndScale.apply(x, kept, self.scale_value)
        return dropped

    def _products(self, x: Tensor, row: Tensor) -> Tensor:
        """Row words by column words, of a shape that broadcasts to that of `x`."""
        masked = x.shape if self.masked is None else x.shape[: self.masked]
        ones = (1,) * (x.dim() - len(masked))
        pairs = row.shape[0]

        # Asked first: the compiler then knows that both sizes are one.
        if x.shape[0] == pairs:
            words = columns(tuple(masked[1:]), x.device)
            return row.view(pairs, *(1,) * words.dim(), *ones) * words.view(*words.shape, *ones)

        if x.shape[0] % pairs != 0:
            raise UserError(
                f"{self.name}: its input's first dimension is {x.shape[0]}; expected the pass's "
                f"{pairs} pairs, or a multiple of them (windows of an image, image by image)"
            )
        words = columns((x.shape[0] // pairs, *masked[1:]), x.device)
        products = row.view(pairs, *(1,) * words.dim()) * words
        return products.view(*masked, *ones)

    def extra_repr(self) -> str:
        """Shows p where the model is printed."""
        return f"p={self.p:.3g}"


class _Context(FunctionCtx):
    """What forward leaves for backward."""

    saved_tensors: tuple[Tensor]
    scale: float


class _KeepAndScale(torch.autograd.Function):
    """The input where it is kept, scaled; the gradient likewise. Only the mask is saved."""

    @staticmethod
    def forward(context: _Context, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        context.save_for_backward(kept)
        context.scale = scale
        dropped: Tensor = torch.ops.aten.native_dropout_backward(x, kept, scale)
        return dropped

    @staticmethod
    def backward(context: _Context, gradient: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = context.saved_tensors
        return torch.ops.aten.native_dropout_backward(gradient, kept, context.scale), None, None
