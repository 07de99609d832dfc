"""Optimizers and schedules of the recipes: LAMB (paper), AdamW, SGD; linear warm-up and linear decay, decay in steps.

Which parameters are *exempt* from weight decay, and under LAMB from the trust ratio as well, is by kind: `batchnorm`,
`layernorm`, `bias` (of other layers), `temperature`. COYO-ALIGN exempts BatchNorm alone. LAMB moves an adapted scalar
temperature relatively (about one learning rate a step); AdamW moves raw σ by about one learning rate a step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from align_train.distributed import all_reduce_

KINDS = ("batchnorm", "layernorm", "bias", "temperature")
_PARTS = {"text_tower": "text", "head": "head"}  # of a model, that may have learning rates of their own


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
            raise ValueError(f"optimizer.exempt: {sorted(unknown)} are no kinds of parameters; expected some of {list(KINDS)}")

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Parameter groups: of the model, the text tower, temperature and head (where they have rates of their own); each
        adapted, then exempt. Empty ones are left out (an optimizer would refuse them)."""
        rates = {"common": self.lr, "text": self.text_lr, "temperature": self.temperature_lr, "head": self.head_lr}
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
            part = "temperature" if kind == "temperature" else _PARTS.get(name.partition(".")[0], "common")
            if rates[part] is None and part != "temperature":
                part = "common"
            groups[part, kind not in self.exempt]["params"].append(parameter)
        return [group for group in groups.values() if group["params"]]

    def plain_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """For optimizers that know no trust ratio."""
        return [{key: value for key, value in group.items() if key != "always_adapt"} for group in self.groups(model)]


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


class LambOptimizer(Optimizer):
    """LAMB's step (You et al. 2020, algorithm 2, with bias correction), where parameters may be in parts.

    Its trust ratio is |weights| / |update| of each *parameter*. An engine may hand it something else: shards (FSDP2), or flat
    tensors with stretches of many parameters (ZeRO), and the norms of those would be wrong without a word. So norms are those
    of whole parameters: squares of what this rank has, summed over ranks in one all-reduce of two numbers per parameter.

    pieces: for flat tensors, where each of a group's parameters lies in it (start, size), see `engines.pieces_of_groups`.
    A group's `always_adapt` says whether it takes the trust ratio at all.
    """

    def __init__(self, groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": 0.0, "always_adapt": True})
        self.pieces: dict[Tensor, list[tuple[int, int]]] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._step_group(group, parameters)
        return result

    def _step_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
            state["step"] += 1
        step = int(self.state[parameters[0]]["step"])
        weights = [part for parameter in parameters for part in self._parts(parameter, parameter)]
        gradients = [part for parameter in parameters for part in self._parts(parameter, parameter.grad)]
        means, squares = (
            [part for parameter in parameters for part in self._parts(parameter, self.state[parameter][name])]
            for name in ("exp_avg", "exp_avg_sq")
        )
        (beta1, beta2), decay = group["betas"], group["weight_decay"]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        spread = torch._foreach_sqrt(squares)
        torch._foreach_div_(spread, math.sqrt(1 - beta2**step))
        torch._foreach_add_(spread, group["eps"])
        updates = torch._foreach_div(means, 1 - beta1**step)
        torch._foreach_div_(updates, spread)
        if decay:
            torch._foreach_add_(updates, weights, alpha=decay)
        if group["always_adapt"]:
            sharded = any(isinstance(parameter, DTensor) or parameter in self.pieces for parameter in parameters)
            torch._foreach_mul_(updates, _trust_ratios(weights, list(updates), sharded=sharded))
        torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _parts(self, parameter: Tensor, value: Any) -> list[Tensor]:
        """What this rank has of each whole parameter, as views: of `value`, which is laid out like `parameter`."""
        if isinstance(value, DTensor):
            return [value.to_local()]
        if parameter in self.pieces:
            return [value.narrow(0, start, size) for start, size in self.pieces[parameter]]
        return [value]


def _trust_ratios(weights: list[Tensor], updates: list[Tensor], *, sharded: bool) -> Any:
    """|weights| / |update| of each whole parameter; 1 where either is 0."""
    norms = torch.stack([torch.stack(torch._foreach_norm(parts)) for parts in (weights, updates)])
    if sharded:
        norms = all_reduce_(norms.square_()).sqrt_()
    ratios = torch.where((norms > 0).all(0), norms[0] / norms[1], 1.0)
    return ratios.unbind()


class _Schedule(ABC):
    """What the learning rate is multiplied by, step by step."""

    warmup_steps: int

    def factor(self, step: int, max_steps: int) -> float:
        """What the learning rate is multiplied by in the step after `step` finished ones."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return self._after_warmup(step, max_steps)

    @abstractmethod
    def _after_warmup(self, step: int, max_steps: int) -> float: ...

    def build(self, optimizer: Optimizer, max_steps: int) -> LambdaLR:
        return LambdaLR(optimizer, lambda step: self.factor(step, max_steps))


class WarmupLinear(_Schedule):
    """Linear from 0 to the learning rate in `warmup_steps`, then linear to `final` × it at the run's last step (paper, 5)."""

    def __init__(self, *, warmup_steps: int, final: float = 0.0) -> None:
        if warmup_steps < 0 or not 0 <= final <= 1:
            raise ValueError(
                f"scheduler: warmup_steps={warmup_steps}, final={final}: expected 0 or more, and a share in [0, 1]"
            )
        self.warmup_steps, self.final = warmup_steps, final

    def _after_warmup(self, step: int, max_steps: int) -> float:
        left = (max_steps - step) / max(1, max_steps - self.warmup_steps)
        return self.final + (1 - self.final) * max(0.0, left)


class StepDecay(_Schedule):
    """Multiplied by `ratio` after every `every` steps."""

    def __init__(self, *, every: int, ratio: float, warmup_steps: int = 0) -> None:
        if every < 1 or warmup_steps < 0 or not 0 < ratio <= 1:
            raise ValueError(
                f"scheduler: every={every}, ratio={ratio}, warmup_steps={warmup_steps}: expected at least 1, a share in "
                f"(0, 1], and 0 or more"
            )
        self.every, self.ratio, self.warmup_steps = every, ratio, warmup_steps

    def _after_warmup(self, step: int, max_steps: int) -> float:
        return float(self.ratio ** (step // self.every))
