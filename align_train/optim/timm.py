"""Optimizers of timm by name: `optimizer=timm optimizer.name=lion`, or `optimizer=muon`.

Two kinds. Some work on each element alone: they are right wherever a strategy keeps a parameter,
also on ZeRO's flat tensors. Others look at a whole parameter: Muon at the matrix, Adafactor at its
rows and columns, "cautious" ones at a mean. On shards and on flat tensors those would be wrong, and
nothing would show it (timm's Muon takes a flat tensor for a bias), so that they are refused there.

Left out: optimizers that keep state outside of parameters (adan, lamb, kron), that project in some
layouts alone (adamp, sgdp), and those whose decay follows timm's own rates (`…c`).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

import timm.optim
from torch import nn
from torch.optim import Optimizer

from align_train.optim.ademamix import AdEMAMixOptimizer
from align_train.optim.groups import Rate, Trained
from align_train.optim.recipes import Recipe

ELEMENT_WISE = ("adabelief", "adamax", "adopt", "adoptw", "lion", "nadamw", "radam")
WHOLE = ("adafactor", "adamuon", "cadamw", "clion", "mars", "muon", "nadamuon", "nmuon")

# Untyped in timm.
_LIBRARY: Any = timm.optim

# Arguments that groups of parameters have.
_OF_GROUPS = ("self", "params", "lr", "weight_decay")


@dataclass(frozen=True, kw_only=True)
class Timm(Recipe):
    """An optimizer of timm.

    Attributes:
        name: timm's name, of `ELEMENT_WISE` or `WHOLE`.
        options: More arguments of its class, as timm's documentation has them; None: none.
    """

    name: str
    options: dict[str, object] | None

    def __post_init__(self) -> None:
        """Refuses names and options that there are not.

        Raises:
            ValueError: The name is not on the lists, or this version of timm lacks it.
        """
        super().__post_init__()
        if self.name not in (*ELEMENT_WISE, *WHOLE):
            known = ", ".join(sorted((*ELEMENT_WISE, *WHOLE)))
            raise ValueError(
                f"optimizer.name={self.name}: not supported; expected one of {known}; or take "
                f"optimizer=adamw, lamb, sgd or ademamix"
            )
        try:
            made = _LIBRARY.get_optimizer_class(self.name, bind_defaults=False)
        except ValueError:
            raise ValueError(
                f"optimizer.name={self.name}: this version of timm has no such optimizer; "
                f"pip install --upgrade timm"
            ) from None

        # Checked here, because the class is called only once the model is built.
        taken = [key for key in inspect.signature(made).parameters if key not in _OF_GROUPS]
        for key in self.options or {}:
            if key not in taken:
                raise ValueError(
                    f"optimizer.options.{key}: {self.name} has no such option; it takes "
                    f"{', '.join(taken)}"
                )

    @property
    def wants_whole(self) -> bool:
        """See `Recipe.wants_whole`."""
        return self.name in WHOLE

    @property
    def moments(self) -> str:
        """See `Recipe.moments`: some options add an average, as Adafactor's betas do."""
        return " ".join(["timm", self.name, *sorted(self.options or {})])

    def build(self, model: nn.Module) -> Optimizer:
        """The optimizer of a model's trained parameters."""
        make = _LIBRARY.get_optimizer_class(self.name)
        optimizer: Optimizer = make(self.plain_groups(model), lr=self.lr, **(self.options or {}))
        return optimizer

    def _rate_of(self, found: Trained) -> Rate:
        rate = super()._rate_of(found)
        # Muon is for matrices that map vectors; a table of tokens is none (Jordan et al. 2024).
        if "muon" in self.name and found.kind == "embedding":
            # timm's Muon steps groups with this key by its fallback, a kind of Adam.
            return replace(rate, extra=(("use_fallback", True),))
        return rate


@dataclass(frozen=True, kw_only=True)
class AdEMAMix(Recipe):
    """AdEMAMix (Pagliardini et al. 2024).

    Attributes:
        betas: Decays of the fast average, of the squares, and of the slow average, each in [0, 1).
        alpha: The share of the slow average, 0 or more.
        alpha_steps: Steps in which alpha and the third beta rise, 0 or more (paper: the run's).
        eps: Added to the root of the second moment.
    """

    betas: list[float]
    alpha: float
    alpha_steps: int
    eps: float

    def __post_init__(self) -> None:
        """Refuses numbers that cannot train.

        Raises:
            ValueError: A value lies outside its range.
        """
        super().__post_init__()
        if len(self.betas) != 3 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(
                f"optimizer.betas={list(self.betas)}: expected three numbers in [0, 1)"
            )
        for name in ("alpha", "alpha_steps"):
            # `not >=` refuses NaN too.
            if not getattr(self, name) >= 0:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: expected 0 or more")

    def build(self, model: nn.Module) -> Optimizer:
        """The optimizer of a model's trained parameters."""
        fast, squares, slow = self.betas
        return AdEMAMixOptimizer(
            self.plain_groups(model),
            betas=(fast, squares, slow),
            alpha=self.alpha,
            alpha_steps=self.alpha_steps,
            eps=self.eps,
        )
