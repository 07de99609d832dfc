"""Optimizers of the recipes: LAMB (paper), AdamW, and gradient descent with momentum.

A recipe is a small object that settings name; it groups a model's parameters and builds the
optimizer. Which parameters are *exempt* from weight decay, and under LAMB from the trust ratio as
well, is by kind: `batchnorm`, `layernorm`, `bias` (of other layers), `temperature`. COYO-ALIGN
exempts BatchNorm alone.

LAMB moves an adapted scalar temperature relatively, about one learning rate a step; AdamW moves raw
σ by about one learning rate a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from align_train.optim.lamb import Group, LambOptimizer

KINDS = ("batchnorm", "layernorm", "bias", "temperature")

# Modules of a model that may have a learning rate of their own.
_PARTS = {"text_tower": "text", "head": "head"}


class _Found(NamedTuple):
    """A trained parameter of a model.

    Attributes:
        part: `temperature`, one of `_PARTS`, or `common`.
        kind: One of `KINDS`, or `weight`.
        parameter: The parameter.
    """

    part: str
    kind: str
    parameter: nn.Parameter


def _trained(model: nn.Module) -> Iterator[_Found]:
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            # Locked parameters are in no group: weight decay would move them.
            if parameter.requires_grad:
                kind = _kind(module_name, module, name)
                part = _PARTS.get(module_name.partition(".")[0], "common")
                yield _Found("temperature" if kind == "temperature" else part, kind, parameter)


def _kind(module_name: str, module: nn.Module, parameter_name: str) -> str:
    if module_name.endswith("temperature"):
        return "temperature"
    if isinstance(module, _BatchNorm):
        return "batchnorm"
    if isinstance(module, nn.LayerNorm):
        return "layernorm"
    return "bias" if parameter_name == "bias" else "weight"


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """What all optimizers have in common.

    Attributes:
        lr: The learning rate, 0 or more.
        weight_decay: 0 or more.
        text_lr: The text tower's learning rate; None: `lr`.
        temperature_lr: The temperature's; None: `lr`.
        head_lr: A classifier's linear layer's; None: `lr`.
        exempt: The kinds of parameters without weight decay, of `KINDS`.
    """

    lr: float
    weight_decay: float
    text_lr: float | None
    temperature_lr: float | None
    head_lr: float | None
    exempt: Sequence[str]

    def __post_init__(self) -> None:
        """Refuses numbers that cannot train, before anything is built.

        Raises:
            ValueError: A value lies outside its range.
        """
        for name in ("lr", "text_lr", "temperature_lr", "head_lr"):
            rate = getattr(self, name)
            if rate is not None and not 0 <= rate < math.inf:
                raise ValueError(f"optimizer.{name}={rate}: expected a learning rate, 0 or more")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"optimizer.weight_decay={self.weight_decay}: expected 0 or more")

        unknown = set(self.exempt) - set(KINDS)
        if unknown:
            raise ValueError(
                f"optimizer.exempt: {sorted(unknown)} are no kinds of parameters; "
                f"expected some of {list(KINDS)}"
            )

    def groups(self, model: nn.Module) -> list[Group]:
        """Parameter groups for an optimizer.

        Args:
            model: The model, before or after a strategy has taken it.

        Returns:
            Those of the model, of the text tower, the temperature and the head; each adapted, then
            exempt. Empty ones are left out, since an optimizer would refuse them. Text tower and
            head have groups only if they have learning rates of their own.
        """
        rates = {
            "common": self.lr,
            "text": self.text_lr,
            "temperature": self.temperature_lr,
            "head": self.head_lr,
        }
        groups: dict[tuple[str, bool], Group] = {}
        for part, rate in rates.items():
            # Weight decay and trust ratio are properties of a group, so exempt parameters have one.
            for adapt in (True, False):
                groups[part, adapt] = {
                    "params": [],
                    "lr": self.lr if rate is None else rate,
                    "weight_decay": self.weight_decay if adapt else 0.0,
                    "always_adapt": adapt,
                }

        for part, kind, parameter in _trained(model):
            has_own = part == "temperature" or rates[part] is not None
            # Fewer groups are fewer kernels, and under ZeRO fewer flat tensors.
            group = groups[part if has_own else "common", kind not in self.exempt]
            group["params"].append(parameter)

        return [group for group in groups.values() if group["params"]]

    def plain_groups(self, model: nn.Module) -> list[Group]:
        """`groups` for optimizers that know no trust ratio."""
        groups = self.groups(model)
        for group in groups:
            del group["always_adapt"]
        return groups


@dataclass(frozen=True, kw_only=True)
class _Adaptive(_Recipe):
    """Optimizers with two moments.

    Attributes:
        betas: Their decay, two numbers in [0, 1).
        eps: Added to the root of the second moment.
    """

    betas: Sequence[float]
    eps: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas={list(self.betas)}: expected two numbers in [0, 1)")

    @property
    def _two_betas(self) -> tuple[float, float]:
        return self.betas[0], self.betas[1]


@dataclass(frozen=True, kw_only=True)
class AdamW(_Adaptive):
    """AdamW (Loshchilov and Hutter 2019)."""

    def build(self, model: nn.Module) -> Optimizer:
        """The optimizer of a model's trained parameters."""
        groups = self.plain_groups(model)
        # Fused, on two cores, in a fifth of the time.
        return torch.optim.AdamW(groups, betas=self._two_betas, eps=self.eps, fused=True)


@dataclass(frozen=True, kw_only=True)
class SGD(_Recipe):
    """Gradient descent with momentum.

    Attributes:
        momentum: In [0, 1).
    """

    momentum: float

    def __post_init__(self) -> None:
        """Refuses numbers that cannot train.

        Raises:
            ValueError: A value lies outside its range.
        """
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optimizer.momentum={self.momentum}: expected a number in [0, 1)")

    def build(self, model: nn.Module) -> Optimizer:
        """The optimizer of a model's trained parameters."""
        return torch.optim.SGD(self.plain_groups(model), momentum=self.momentum)


@dataclass(frozen=True, kw_only=True)
class Lamb(_Adaptive):
    """LAMB (You et al. 2020); exempt parameters have neither weight decay nor trust ratio."""

    def build(self, model: nn.Module) -> Optimizer:
        """The optimizer of a model's trained parameters."""
        return LambOptimizer(self.groups(model), betas=self._two_betas, eps=self.eps)
