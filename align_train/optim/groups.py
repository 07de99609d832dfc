"""Parameter groups: which rate and which weight decay each trained parameter has.

A learning rate stands in its group as it is used: a factor beside it, as timm has it, would be read
by timm's own schedulers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from align_train.model.depth import levels

# Of parameters, as PyTorch's optimizers take them: `params`, `lr`, `weight_decay`, …
Group = dict[str, Any]

KINDS = ("batchnorm", "layernorm", "bias", "temperature")

# Parts of a model that may have a learning rate of their own, in the order of their groups.
PARTS = ("image tower", "text tower", "projections", "other", "temperature", "head")

_TOWERS = {"image_tower": "image tower", "text_tower": "text tower"}


@dataclass(frozen=True)
class Trained:
    """A trained parameter of a model.

    Attributes:
        part: One of `PARTS`.
        tower: The tower that it belongs to, `image tower` or `text tower`; empty: none.
        kind: One of `KINDS`, `embedding` or `weight`.
        depth: Of a tower's parameter: 0 above the last block, 1 in it, and so on downwards.
        parameter: The parameter.
    """

    part: str
    tower: str
    kind: str
    depth: int
    parameter: nn.Parameter


@dataclass(frozen=True)
class Rate:
    """What sets a parameter's group.

    Attributes:
        lr: The learning rate, layer decay included.
        weight_decay: The weight decay.
        adapt: Whether weight decay and trust ratio apply.
        depth_factor: The share of the learning rate that layer decay leaves.
        extra: More keys of the group.
    """

    lr: float
    weight_decay: float
    adapt: bool
    depth_factor: float = 1.0
    extra: tuple[tuple[str, object], ...] = field(default=())


def trained(model: nn.Module) -> Iterator[Trained]:
    """Finds the trained parameters of a model, each once.

    Args:
        model: The model, before or after a strategy has taken it.
    """
    depths = _depths(model)
    seen: set[Tensor] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            # Locked parameters are in no group: weight decay would move them.
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                kind = _kind(module_name, module, name)
                part = "temperature" if kind == "temperature" else _part(module_name)
                tower = _TOWERS.get(module_name.partition(".")[0], "")
                yield Trained(part, tower, kind, depths.get(module, 0), parameter)


def grouped(model: nn.Module, rate_of: Callable[[Trained], Rate]) -> list[Group]:
    """Groups the trained parameters by what is set for them.

    Args:
        model: The model.
        rate_of: What is set for a parameter.

    Returns:
        Groups with `name`, `params`, `lr`, `weight_decay`, `always_adapt` and `depth_factor`; in
        the order of `PARTS`, from the top of towers down, exempt parameters after the others.
    """
    members: dict[tuple[bool, Rate], list[Trained]] = {}
    found = [(item, rate_of(item)) for item in trained(model)]
    # In order before they are grouped: a dict keeps the order of its first keys.
    for item, rate in sorted(found, key=_place):
        # Fewer groups are fewer kernels, and under ZeRO fewer flat tensors.
        members.setdefault((item.part == "temperature", rate), []).append(item)

    groups: list[Group] = []
    for (_, rate), items in members.items():
        group = {
            "name": _name(items, rate),
            "params": [item.parameter for item in items],
            "lr": rate.lr,
            "weight_decay": rate.weight_decay,
            "always_adapt": rate.adapt,
            "depth_factor": rate.depth_factor,
        }
        groups.append(group | dict(rate.extra))
    return groups


def has_depth(model: nn.Module) -> bool:
    """Whether a trained parameter lies in or below a block of a tower, so that depth matters."""
    return any(item.depth > 0 for item in trained(model))


def _place(found: tuple[Trained, Rate]) -> tuple[int, int, bool]:
    item, rate = found
    # The first group has a full rate, which is the one that is logged.
    depth = item.depth if rate.depth_factor != 1 else 0
    return PARTS.index(item.part), depth, not rate.adapt


def _name(items: list[Trained], rate: Rate) -> str:
    parts = [part for part in PARTS if any(item.part == part for item in items)]
    name = " and ".join(parts)
    if rate.depth_factor != 1:
        name += f", {min(item.depth for item in items)} from the top"
    return name if rate.adapt else f"{name}, exempt"


def _depths(model: nn.Module) -> dict[nn.Module, int]:
    """Of each module of the towers: 0 above the last block, 1 in it, and so on downwards."""
    depths: dict[nn.Module, int] = {}
    towers: Any = dict(model.named_children())
    for name in _TOWERS:
        if name in towers:
            level_of = levels(towers[name], towers[name].blocks)
            # Counted from the top, because layer decay leaves the last block the highest rate.
            top = max(level_of.values())
            depths |= {module: top - level for module, level in level_of.items()}
    return depths


def _part(module_name: str) -> str:
    first, _, rest = module_name.partition(".")
    if first in _TOWERS:
        return "projections" if rest.partition(".")[0] == "projection" else _TOWERS[first]
    return "head" if first == "head" else "other"


def _kind(module_name: str, module: nn.Module, parameter_name: str) -> str:
    if module_name.endswith("temperature"):
        return "temperature"
    # The layer decides before the name: the bias of a norm is of the norm's kind.
    if isinstance(module, _BatchNorm):
        return "batchnorm"
    if isinstance(module, nn.LayerNorm):
        return "layernorm"
    if isinstance(module, nn.Embedding):
        return "embedding"
    return "bias" if parameter_name == "bias" else "weight"
