from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from align_train.cluster.collectives import all_reduce_


class LambOptimizer(Optimizer):
    """LAMB's step (You et al. 2020, algorithm 2, with bias correction), where parameters may be in parts.

    Its trust ratio is |weights| / |update| of each *parameter*. An engine may hand it something else: shards (FSDP2), or flat
    tensors with stretches of many parameters (ZeRO), and the norms of those would be wrong without a word. So norms are those
    of whole parameters: squares of what this rank has, summed over ranks in one all-reduce of two numbers per parameter.

    pieces: for flat tensors, where each of a group's parameters lies in it (start, size), see `engines.pieces_of_groups`.
    A group's `always_adapt` says whether it takes the trust ratio at all.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float
    ) -> None:
        super().__init__(
            groups,
            {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": 0.0, "always_adapt": True},
        )
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
                state.update(
                    step=torch.zeros(()),
                    exp_avg=torch.zeros_like(parameter),
                    exp_avg_sq=torch.zeros_like(parameter),
                )
            state["step"] += 1
        step = int(self.state[parameters[0]]["step"])
        weights = [part for parameter in parameters for part in self._parts(parameter, parameter)]
        gradients = [
            part for parameter in parameters for part in self._parts(parameter, parameter.grad)
        ]
        means, squares = (
            [
                part
                for parameter in parameters
                for part in self._parts(parameter, self.state[parameter][name])
            ]
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
            sharded = any(
                isinstance(parameter, DTensor) or parameter in self.pieces
                for parameter in parameters
            )
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
