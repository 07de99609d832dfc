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
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from align_train.errors import UserError
from align_train.optim.groups import KINDS, Group, Rate, Trained, grouped, has_depth, trained
from align_train.optim.lamb import LambOptimizer

# Rates that are null unless a user gives them -> the parts that they are for.
_GIVEN = {"image_lr": "image tower", "projection_lr": "projections", "head_lr": "head"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all optimizers have in common.

    Attributes:
        lr: The learning rate, 0 or more.
        weight_decay: 0 or more.
        image_lr: The image tower's learning rate; None: `lr`.
        text_lr: The text tower's; None: `lr`.
        projection_lr: That of both towers' linear layers; None: as their towers.
        temperature_lr: The temperature's; None: `lr`.
        head_lr: A classifier's linear layer's; None: `lr`.
        layer_decay: In (0, 1]: the n-th block from the top of a tower has the learning rate times
            this to the power of n, and what lies below the first block one power more (BEiT, Bao
            et al. 2022). None: all have the same.
        exempt: The kinds of parameters without weight decay, of `KINDS`.
    """

    lr: float
    weight_decay: float
    image_lr: float | None
    text_lr: float | None
    projection_lr: float | None
    temperature_lr: float | None
    head_lr: float | None
    layer_decay: float | None
    exempt: Sequence[str]

    def __post_init__(self) -> None:
        """Refuses numbers that cannot train, before anything is built.

        Raises:
            ValueError: A value lies outside its range.
        """
        for name in ("lr", "text_lr", "temperature_lr", *_GIVEN):
            rate = getattr(self, name)
            # A comparison with NaN is false, so that NaN is refused too.
            if rate is not None and not 0 <= rate < math.inf:
                raise ValueError(f"optimizer.{name}={rate}: expected a learning rate, 0 or more")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"optimizer.weight_decay={self.weight_decay}: expected 0 or more")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(
                f"optimizer.layer_decay={self.layer_decay}: expected a factor in (0, 1], or null"
            )

        unknown = set(self.exempt) - set(KINDS)
        if unknown:
            raise ValueError(
                f"optimizer.exempt: {sorted(unknown)} are no kinds of parameters; "
                f"expected some of {list(KINDS)}"
            )

    def build(self, model: nn.Module) -> Optimizer:
        """The optimizer of a model's trained parameters."""
        raise NotImplementedError

    @property
    def wants_whole(self) -> bool:
        """Whether its step looks at whole parameters, and is wrong on shards and flat tensors."""
        return False

    @property
    def moments(self) -> str:
        """Whose averages its optimizer keeps: a resume under another name begins without any."""
        return type(self).__name__

    def groups(self, model: nn.Module) -> list[Group]:
        """Parameter groups for an optimizer.

        Args:
            model: The model, before or after a strategy has taken it.

        Returns:
            A group for each rate and decay, see `grouped`; the temperature's is its own.

        Raises:
            UserError: A rate or the layer decay has no parameter that it is for.
        """
        # A rate without a parameter would do nothing, and nobody would notice.
        parts = {item.part for item in trained(model)}
        for name, part in _GIVEN.items():
            rate = getattr(self, name)
            if rate is not None and part not in parts:
                source = "" if name == "image_lr" else f" (or rates.{name.removesuffix('_lr')})"
                raise UserError(
                    f"optimizer.{name}={rate}: this model has no trained parameters of the kind "
                    f"({part}); set it{source} to null"
                )
        # A factor of 1 is as good as null, and needs no blocks.
        if self.layer_decay not in (None, 1) and not has_depth(model):
            raise UserError(
                f"optimizer.layer_decay={self.layer_decay}: no trained tower has blocks; set it "
                f"to null"
            )
        return grouped(model, self._rate_of)

    def _rate_of(self, found: Trained) -> Rate:
        rates = {
            "image tower": self.image_lr,
            "text tower": self.text_lr,
            "temperature": self.temperature_lr,
            "head": self.head_lr,
            "projections": self.projection_lr,
        }
        own = rates.get(found.part)
        # A projection without a rate of its own learns as fast as its tower.
        if own is None and found.part == "projections":
            own = rates[found.tower]
        rate = self.lr if own is None else own
        factor = (self.layer_decay or 1.0) ** found.depth
        adapt = found.kind not in self.exempt
        return Rate(
            lr=rate * factor,
            weight_decay=self.weight_decay if adapt else 0.0,
            adapt=adapt,
            depth_factor=factor,
        )

    def plain_groups(self, model: nn.Module) -> list[Group]:
        """`groups` for optimizers that know no trust ratio."""
        groups = self.groups(model)
        for group in groups:
            # torch's optimizers keep keys that they do not know, and would save them.
            del group["always_adapt"]
        return groups


@dataclass(frozen=True, kw_only=True)
class _Adaptive(Recipe):
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
    def moments(self) -> str:
        """See `Recipe.moments`: AdamW and LAMB have the same two."""
        # By one name, a run that goes on with the other of the two keeps its averages.
        return "Adam"

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
class SGD(Recipe):
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
