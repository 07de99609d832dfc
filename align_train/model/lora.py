"""LoRA (Hu et al. 2021, arXiv 2106.09685) through `peft`: a locked tower learns by small adapters.

A layer with weight W then computes W·x + (alpha / rank)·B·A·x. Only A and B are trained; B begins
at zero, so that training begins with the tower as it is. The tower's own weights are locked, and so
are its BatchNorm layers: their statistics stay bitwise as they are (`TrainableModel.train`).

`merged` adds B·A to W again. All that reads a run's weights does so through it: what is evaluated,
exported, searched with or begun from is the plain model, and needs no `peft`.

Price: 2·rank·(inputs + outputs) more operations a layer and token; gradients and optimizer state of
the adapters alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from align_train.errors import UserError, shown
from align_train.model.trainable import TrainableModel

# peft's names within a layer that has an adapter.
_BASE = ".base_layer."
_DOWN = ".lora_A.default.weight"
_UP = ".lora_B.default.weight"
_ADAPTER = ".lora_"

_NAMES_SHOWN = 4

_HELD = "tower"

_PLAIN = (nn.Linear, nn.Conv2d)


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """The adapters of one tower.

    Attributes:
        rank: Rows of A and columns of B.
        alpha: The adapter's output is multiplied by alpha / rank.
        dropout: Share of the adapter's input that is dropped.
        targets: Ends of the names of layers; empty: every linear layer and 1 × 1 convolution of the
            tower's blocks.
        projection: Whether the linear layer on top is trained too, whole.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: Sequence[str] = ()
    projection: bool = True


def add_adapters(model: TrainableModel, tower: str, adapters: Adapters) -> None:
    """Locks a tower and puts adapters beside its layers.

    The names of its tensors change: `….weight` becomes `….base_layer.weight`. So weights from
    elsewhere come before.

    Args:
        model: The model, before a strategy, dropout by pair or a compiler has changed it.
        tower: `image` or `text`.
        adapters: What to add.

    Raises:
        UserError: `peft` is not installed, or the tower has no such layers.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer
    except ImportError:
        raise UserError(
            f"lora.{tower}={adapters.rank}: needs peft; install it with "
            f"`pip install 'align-train[lora]'`"
        ) from None

    network = model.image_tower if tower == "image" else model.text_tower
    assert network is not None, "a classifier has no text tower"
    # peft takes a tower's own `config` for that of a whole model, and looks for tied embeddings
    # (CLIP's and SigLIP's say that they have some). The holder has none.
    holder = nn.ModuleDict({_HELD: network})
    targets = [f"{_HELD}.{name}" for name in _targets(network, tower, adapters.targets)]
    config = LoraConfig(
        r=adapters.rank,
        lora_alpha=adapters.alpha,  # type: ignore[arg-type]  # any number
        lora_dropout=adapters.dropout,
        target_modules=targets,
        bias="none",
    )
    # It locks all other parameters of the tower as well.
    inject_adapter_in_model(config, holder)
    for layer in network.modules():
        if isinstance(layer, LoraLayer):
            # Autocast is enough. By the weight's dtype it would depend on whether passes share
            # casts (`training/casts.py`).
            layer.cast_input_dtype_enabled = False

    projection = getattr(network, "projection", None)  # a tower of a user's own may have none
    if adapters.projection and isinstance(projection, nn.Module):
        projection.requires_grad_(True)
    model.train(model.training)


def _targets(network: Any, tower: str, ends: Sequence[str]) -> Iterator[str]:
    """The names of the layers that get an adapter.

    Raises:
        UserError: There are none, or one that cannot have an adapter.
    """
    names = {module: name for name, module in network.named_modules()}
    if not ends:
        found: dict[str, None] = {}  # an ordered set
        for block in list(network.blocks) or [network]:
            for part in block.modules():
                if _is_usual(part):
                    found[names[part]] = None
        if not found:
            raise UserError(
                f"lora.{tower}: no linear layer and no 1 x 1 convolution in the tower's blocks; "
                f"name layers with lora.{tower}_targets=[…]"
            )
        yield from found
        return

    for end in ends:
        chosen = [name for name in names.values() if f".{name}".endswith(f".{end}")]
        layers = {name: network.get_submodule(name) for name in chosen}
        for name, layer in layers.items():
            # A subclass may use its weight past the adapter: `nn.MultiheadAttention` reads that of
            # its last layer, and a standardised convolution would not merge.
            if type(layer) not in _PLAIN or _groups(layer) > 1:
                raise UserError(
                    f"lora.{tower}_targets: {shown(name)} is a {type(layer).__name__}; expected "
                    f"linear layers, or convolutions without groups, of torch's own types"
                )
        if not chosen:
            usual = [name for part, name in names.items() if _is_usual(part)]
            some = ", ".join(usual[:_NAMES_SHOWN])
            raise UserError(
                f"lora.{tower}_targets: no layer's name ends with {shown(end)}; there are {some}, …"
            )
        yield from chosen


def _is_usual(layer: nn.Module) -> bool:
    # Not of a subclass: it may use its weight in a way of its own, past any adapter.
    if type(layer) is nn.Conv2d:
        return layer.kernel_size == (1, 1) and layer.groups == 1
    return type(layer) is nn.Linear


def _groups(layer: nn.Module) -> int:
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def has_adapters(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a model with adapters."""
    return any(_ADAPTER in name for name in tensors)


def merged(tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Adds adapters to the weights that they stand beside.

    Args:
        tensors: By name; adapters have peft's names.
        alpha: That of the adapters.

    Returns:
        The tensors of the plain model, under its names.
    """
    plain: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if _ADAPTER in name:
            continue

        owner, inner, rest = name.partition(_BASE)
        if inner and rest == "weight":
            # A layer that has no adapter of its own has no base layer either.
            value = _plus(value, tensors[owner + _UP], tensors[owner + _DOWN], alpha)
        plain[f"{owner}.{rest}" if inner else name] = value
    return plain


def _plus(weight: Tensor, up: Tensor, down: Tensor, alpha: float) -> Tensor:
    """W + alpha / rank · B·A. A convolution's B is 1 × 1, and its A has W's kernel."""
    rank = len(down)
    # In float64: then the sum is rounded once, to the weight's own type.
    product = up.double().flatten(1) @ down.double().flatten(1)
    summed: Tensor = weight.double() + (alpha / rank) * product.view(weight.shape)
    return summed.to(weight.dtype)
