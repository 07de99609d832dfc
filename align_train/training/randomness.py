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

Price: for a pass some 40 operations of the size layers x pairs. For each layer two operations of
the mask's size (integers, then booleans), then one operation that keeps and scales; `python -m
benchmarks.dropout` compares that with torch's dropout. Timm's fused attention is switched off in a
layer with attention dropout, since its kernel draws its numbers itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from align_train.errors import UserError
from align_train.training.hashing import Words, columns, rows, words_of

# Leading dimensions that have a word of their own: whole pairs, whole channels; None: all.
_MASKED: dict[type[nn.Module], int | None] = {
    DropPath: 1,
    nn.Dropout1d: 2,
    nn.Dropout2d: 2,
    nn.Dropout3d: 2,
    nn.Dropout: None,
}


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


class Pass(NamedTuple):
    """The words and factors of one pass.

    Attributes:
        rows: int32 `[pairs]` for each layer.
        factors: `[pairs]` for each layer that drops whole pairs: 0, or its scale.
    """

    rows: tuple[Tensor, ...]
    factors: tuple[Tensor, ...]


class RandomLayers:
    """All layers of a model that drop something, each replaced by a `DropoutByPair`."""

    def __init__(self, model: nn.Module) -> None:
        """Replaces the layers in place; those with p = 0 stay.

        Args:
            model: Before it is compiled, checkpointed or sharded. Its layers may be replaced
                already.
        """
        self.layers: list[DropoutByPair] = []
        replaced: dict[nn.Module, DropoutByPair] = {}
        for path, parent in list(model.named_modules()):
            for child_name, child in list(parent.named_children()):
                name = f"{path}.{child_name}" if path else child_name
                layer = replaced.get(child) or _by_pair(child, name)
                if layer is None:
                    continue

                # A layer that stands in two places stays one layer.
                if child not in replaced:
                    self.layers.append(layer)
                replaced[child] = layer
                setattr(parent, child_name, layer)
                if child_name == "attn_drop" and hasattr(parent, "fused_attn"):
                    parent.fused_attn = False

        # A layer's word comes from its name: one that is added elsewhere changes nothing.
        words = [words_of(layer.name)[0] for layer in self.layers]
        self._words = torch.tensor(words, dtype=torch.int32)
        self._path_layers = [layer for layer in self.layers if layer.masked == 1]
        self._pass: Pass | None = None

    def __len__(self) -> int:
        """How many layers drop something."""
        return len(self.layers)

    def set_pass(self, words: Words, places: Tensor, dtype: torch.dtype = torch.float64) -> None:
        """Draws the words of the next pass.

        Args:
            words: `words_of(seed, finished_steps)`.
            places: int32 `[pairs]`, each pair's place in the global batch, on the model's device.
            dtype: The usual type of what is dropped, which costs nothing then.
        """
        if not self.layers:
            return
        if self._words.device != places.device or self._pass is None:
            self._move(places.device)

        table = rows(words, self._words, places)
        # Of all layers that drop whole pairs at once: they are many, and each has few numbers.
        products = table[self._whole_pairs] * columns((), places.device)
        factors = (products >= self._thresholds) * self._scales
        self.restore(Pass(table.unbind(), factors.to(dtype).unbind()))

    def current(self) -> Pass | None:
        """The words of the pass under way, for `restore`; None if there are none."""
        return self._pass

    def restore(self, earlier: Pass | None) -> None:
        """Goes back to an earlier pass, as before its second computation in the backward pass.

        Args:
            earlier: From `current`.
        """
        if earlier is None or earlier is self._pass:
            return
        self._pass = earlier
        for layer, row in zip(self.layers, earlier.rows, strict=True):
            layer.row = row
        for layer, factor in zip(self._path_layers, earlier.factors, strict=True):
            layer.factor = factor

    def _move(self, device: torch.device) -> None:
        """Moves the constants of all passes to a device."""
        self._words = self._words.to(device)
        thresholds = [layer.threshold_value for layer in self.layers]
        scales = [layer.scale_value for layer in self.layers]
        of_layers = torch.tensor(thresholds, dtype=torch.int32, device=device)
        factors = torch.tensor(scales, dtype=torch.float64, device=device)
        for layer, threshold, scale in zip(self.layers, of_layers, factors, strict=True):
            layer.threshold = threshold
            layer.scale = scale

        whole_pairs = [index for index, layer in enumerate(self.layers) if layer.masked == 1]
        self._whole_pairs = torch.tensor(whole_pairs, dtype=torch.int64, device=device)
        self._thresholds = of_layers[self._whole_pairs, None]
        self._scales = factors[self._whole_pairs, None]


def _by_pair(layer: nn.Module, name: str) -> DropoutByPair | None:
    """The layer that takes another's place; None if that one drops nothing."""
    if isinstance(layer, DropoutByPair):
        return layer
    # A subclass may draw in a way of its own: `refuse_other_draws` finds it.
    if type(layer) not in _MASKED:
        return None

    p = float(layer.drop_prob if isinstance(layer, DropPath) else layer.p)  # type: ignore[arg-type]
    if p == 0:
        return None
    rescale = bool(getattr(layer, "scale_by_keep", True))
    by_pair = DropoutByPair(p, name=name, masked=_MASKED[type(layer)], rescale=rescale)
    return by_pair.train(layer.training)


@contextmanager
def refuse_other_draws(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Checks that a pass in training mode leaves torch's generators alone.

    Price: two copies of a generator's state on the host; meant for a run's first pass.

    Args:
        model: For the error.
        device: Where the pass runs.

    Raises:
        UserError: A generator has moved.
    """
    before = _generators(device)
    yield
    if all(map(torch.equal, before, _generators(device))):
        return
    raise UserError(
        f"{type(model).__name__} draws random numbers by torch's own generator in its forward "
        "pass; they would depend on chunk_size and rank: use nn.Dropout or timm's DropPath modules"
    )


def _generators(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states
