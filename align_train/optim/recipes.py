"""Optimizers and schedules of the recipes: LAMB (paper), AdamW, SGD; linear warm-up and linear decay, decay in steps.

Which parameters are *exempt* from weight decay, and under LAMB from the trust ratio as well, is by kind: `batchnorm`,
`layernorm`, `bias` (of other layers), `temperature`. COYO-ALIGN exempts BatchNorm alone. LAMB moves an adapted scalar
temperature relatively (about one learning rate a step); AdamW moves raw σ by about one learning rate a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from align_train.optim.lamb import LambOptimizer

KINDS = ("batchnorm", "layernorm", "bias", "temperature")


_PARTS = {
    "text_tower": "text",
    "head": "head",
}  # of a model, that may have learning rates of their own


def _kinds(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Each trained parameter with its name and its kind; `weight` for all that is none of KINDS."""
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if module_name.endswith("temperature"):
                kind = "temperature"
            elif isinstance(module, _BatchNorm):
                kind = "batchnorm"
            elif isinstance(module, nn.LayerNorm):
                kind = "layernorm"
            else:
                kind = "bias" if name == "bias" else "weight"
            yield f"{module_name}.{name}", kind, parameter


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """What all optimizers are told. text_lr, temperature_lr, head_lr: learning rates of the text tower, the temperature and a
    classifier's linear layer; None: as lr. exempt: kinds of parameters."""

    lr: float
    weight_decay: float = 1e-5
    text_lr: float | None = None
    temperature_lr: float | None = None
    head_lr: float | None = None
    exempt: Sequence[str] = KINDS

    def __post_init__(self) -> None:
        """ValueError for numbers that no training can be done with, before anything is built."""
        for name in ("lr", "text_lr", "temperature_lr", "head_lr"):
            rate = getattr(self, name)
            if rate is not None and not 0 <= rate < math.inf:
                raise ValueError(f"optimizer.{name}={rate}: expected a learning rate, 0 or more")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"optimizer.weight_decay={self.weight_decay}: expected 0 or more")
        unknown = set(self.exempt) - set(KINDS)
        if unknown:
            raise ValueError(
                f"optimizer.exempt: {sorted(unknown)} are no kinds of parameters; expected some of {list(KINDS)}"
            )

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Parameter groups: of the model, the text tower, temperature and head (where they have rates of their own); each
        adapted, then exempt. Empty ones are left out (an optimizer would refuse them)."""
        rates = {
            "common": self.lr,
            "text": self.text_lr,
            "temperature": self.temperature_lr,
            "head": self.head_lr,
        }
        groups: dict[tuple[str, bool], dict[str, Any]] = {
            (part, adapt): {
                "params": [],
                "lr": self.lr if rate is None else rate,
                "weight_decay": self.weight_decay if adapt else 0.0,
                "always_adapt": adapt,
            }
            for part, rate in rates.items()
            for adapt in (True, False)
        }
        for name, kind, parameter in _kinds(model):
            part = (
                "temperature"
                if kind == "temperature"
                else _PARTS.get(name.partition(".")[0], "common")
            )
            if rates[part] is None and part != "temperature":
                part = "common"
            groups[part, kind not in self.exempt]["params"].append(parameter)
        return [group for group in groups.values() if group["params"]]

    def plain_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """For optimizers that know no trust ratio."""
        return [
            {key: value for key, value in group.items() if key != "always_adapt"}
            for group in self.groups(model)
        ]


@dataclass(frozen=True, kw_only=True)
class _Adaptive(_Recipe):
    betas: Sequence[float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas={list(self.betas)}: expected two numbers in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class AdamW(_Adaptive):
    """AdamW (Loshchilov and Hutter 2019)."""

    def build(self, model: nn.Module) -> Optimizer:
        betas = (self.betas[0], self.betas[1])
        # Fused, on two cores, in a fifth of the time.
        return torch.optim.AdamW(self.plain_groups(model), betas=betas, eps=self.eps, fused=True)


@dataclass(frozen=True, kw_only=True)
class SGD(_Recipe):
    """Gradient descent with momentum."""

    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optimizer.momentum={self.momentum}: expected a number in [0, 1)")

    def build(self, model: nn.Module) -> Optimizer:
        return torch.optim.SGD(self.plain_groups(model), momentum=self.momentum)


@dataclass(frozen=True, kw_only=True)
class Lamb(_Adaptive):
    """LAMB (You et al. 2020); exempt parameters have neither weight decay nor trust ratio."""

    eps: float = 1e-6
    exempt: Sequence[str] = ("batchnorm",)

    def build(self, model: nn.Module) -> Optimizer:
        return LambOptimizer(self.groups(model), betas=(self.betas[0], self.betas[1]), eps=self.eps)
