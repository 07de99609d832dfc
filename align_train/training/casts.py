"""Weights cast to bf16 once a step, while their gradients are still added up in float32.

Autocast offers two ways: a cast for every pass, or one that all passes share; then their gradients
are added up in bf16, which loses the small ones. Here all passes share a copy, and each pass has a
node of its own in the graph, which turns its gradients to float32.

Price: a bf16 copy of the weights of linear and convolution layers, during the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from align_train.model.image_tower import FixedPadConv2d

WeightSlot = tuple[dict[str, Any], str]
"""Where a layer keeps a weight: a dictionary and the weight's name."""

# Layers that hand weight and bias straight to an operation for which autocast casts them. Others
# (timm's weight-standardised convolutions) first compute with the weight, in float32.
_CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FORWARD = tuple(kind.forward for kind in _CAST)
_NAMES = ("weight", "bias")


class SharedCasts:
    """The casts of a model's weights that the passes of a step share."""

    def __init__(self, model: nn.Module, blocks: Iterable[nn.Module]) -> None:
        """Finds the layers, and watches the parts that they belong to.

        Args:
            model: The model.
            blocks: Parts of it. A block's gradients are complete when its backward pass ends, so a
                strategy can send them while other blocks still compute.
        """
        self._layers: dict[nn.Module, list[nn.Module]] = {}
        taken: set[nn.Module] = set()
        for part in [*blocks, model]:
            layers: list[nn.Module] = []
            for layer in part.modules():
                if _is_cast(layer) and layer not in taken:
                    layers.append(layer)
            taken.update(layers)
            if layers:
                self._layers[part] = layers
                part.register_forward_pre_hook(self._enter)
                part.register_forward_hook(self._leave, always_call=True)

        self._copies: dict[nn.Module, list[Tensor]] = {}
        self._weights: dict[nn.Module, list[Tensor]] = {}  # while copies are in their place

    def __deepcopy__(self, memo: object) -> SharedCasts:
        # A copied model has these hooks too. Its parts are none of ours: they find no casts.
        return self

    def begin_step(self, dtype: torch.dtype | None) -> None:
        """Casts all weights: until `end_step` the copies are in their place in every pass.

        Args:
            dtype: Their type in this step's passes; None: they are not cast here.
        """
        self._copies = {}
        if dtype is None:
            return

        places: list[WeightSlot] = []
        for layers in self._layers.values():
            places += _places(layers)
        copies = iter(_copies(places, dtype))
        for part, layers in self._layers.items():
            self._copies[part] = list(islice(copies, len(_places(layers))))

    def bytes_of(self, dtype: torch.dtype) -> int:
        """The memory of the copies.

        Args:
            dtype: Their type.
        """
        numbers = 0
        for layers in self._layers.values():
            numbers += sum(owner[name].numel() for owner, name in _places(layers))
        return numbers * dtype.itemsize

    def end_step(self) -> None:
        """Frees the copies."""
        self._copies = {}

    @contextmanager
    def used_by(self, block: nn.Module) -> Iterator[None]:
        """Inside, a block has copies in the place of its weights, as when it is called.

        Args:
            block: One of the model's blocks.
        """
        self._enter(block)
        try:
            yield
        finally:
            self._leave(block)

    def _enter(self, part: nn.Module, *_: object) -> None:
        if part not in self._copies:
            return

        # Only now, in the part itself: the later a node of the graph is made, the earlier it runs
        # in the backward pass. FSDP2 takes a block's gradients when it leaves the block.
        places = _places(self._layers[part])
        weights = [owner[name] for owner, name in places]
        casts = _FromCopies.apply(self._copies[part], *weights)
        self._weights[part] = weights
        for (owner, name), cast in zip(places, casts, strict=True):
            owner[name] = cast

    def _leave(self, part: nn.Module, *_: object) -> None:
        weights = self._weights.pop(part, None)
        if weights is None:
            return
        for (owner, name), weight in zip(_places(self._layers[part]), weights, strict=True):
            owner[name] = weight


class _Context(FunctionCtx):
    """What forward leaves for backward."""

    dtypes: list[torch.dtype]


class _FromCopies(torch.autograd.Function):
    """Copies that stand for weights: gradients of the copies become gradients of the weights."""

    @staticmethod
    def forward(ctx: _Context, copies: list[Tensor], *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.dtypes = [weight.dtype for weight in weights]
        casts = tuple(copy.detach() for copy in copies)
        # Or one trained weight would give the locked ones beside it a backward pass.
        locked = [
            cast for cast, weight in zip(casts, weights, strict=True) if not weight.requires_grad
        ]
        ctx.mark_non_differentiable(*locked)
        # Or autograd would make zeros for these.
        ctx.set_materialize_grads(False)
        return casts

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        found: list[Tensor] = []
        results: list[Tensor] = []
        by_weight: list[Tensor | None] = [None]  # the list of copies has no gradient
        for gradient, dtype in zip(gradients, ctx.dtypes, strict=True):
            if gradient is None:
                by_weight.append(None)
                continue
            result = torch.empty_like(gradient, dtype=dtype)
            found.append(gradient)
            results.append(result)
            by_weight.append(result)

        if found:
            torch._foreach_copy_(results, found)  # one kernel, not one for each weight
        return tuple(by_weight)


def _is_cast(layer: nn.Module) -> bool:
    if not isinstance(layer, _CAST):
        return False
    return type(layer).forward in _FORWARD or isinstance(layer, FixedPadConv2d)


def _places(layers: Iterable[nn.Module]) -> list[WeightSlot]:
    """Where the layers keep their weights: dictionaries and names."""
    places: list[WeightSlot] = []
    for layer in layers:
        own: dict[str, Any] = layer._parameters
        places += [(own, name) for name in _NAMES if own.get(name) is not None]
    return places


@torch.no_grad()
def _copies(places: list[WeightSlot], dtype: torch.dtype) -> list[Tensor]:
    """All of them by one kernel."""
    weights = [owner[name] for owner, name in places]
    copies = [torch.empty_like(weight, dtype=dtype) for weight in weights]
    torch._foreach_copy_(copies, weights)
    return copies
