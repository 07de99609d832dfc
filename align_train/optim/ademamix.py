"""AdEMAMix (Pagliardini et al. 2024, arXiv 2409.03137, algorithm 1): AdamW with a slow average.

timm has it only through bitsandbytes, which needs a GPU. This one works on each element alone, so
that it is right on whole parameters, on shards and on flat tensors.

Price: three moments of each parameter. All operations are one kernel for many parameters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from align_train.optim.groups import Group
from align_train.optim.stepping import GroupOptimizer


class AdEMAMixOptimizer(GroupOptimizer):
    """AdEMAMix's step."""

    moments = ("exp_avg", "exp_avg_slow", "exp_avg_sq")

    def __init__(
        self,
        groups: list[Group],
        *,
        betas: tuple[float, float, float],
        alpha: float,
        alpha_steps: int,
        eps: float,
    ) -> None:
        """Takes groups of parameters.

        Args:
            groups: As PyTorch's optimizers take them.
            betas: The decay of the fast average, of the squares, and of the slow average.
            alpha: The share of the slow average in the update, beside 1 of the fast one.
            alpha_steps: Steps in which alpha rises from 0, and the third beta from the first; 0:
                both are full from the beginning.
            eps: Added to the root of the second moment.
        """
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})
        self.betas = betas
        self.alpha = alpha
        self.alpha_steps = alpha_steps
        self.eps = eps

    def _step_group(self, group: Group, parameters: list[Tensor]) -> None:
        step = self._count_step(parameters)
        weights = [_local(parameter) for parameter in parameters]
        gradients = [
            _local(parameter.grad) for parameter in parameters if parameter.grad is not None
        ]
        fast, slow, squares = (self._moments(parameters, name) for name in self.moments)

        beta1, beta2, _ = self.betas
        # `_foreach` functions run one kernel for all parameters of the list, not one for each.
        torch._foreach_lerp_(fast, gradients, 1 - beta1)
        torch._foreach_lerp_(slow, gradients, 1 - self.slow_beta(step))
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)

        # The fast average and the squares are corrected for their beginning at zero, and the slow
        # average is not (algorithm 1).
        spread = torch._foreach_sqrt(squares)
        torch._foreach_div_(spread, math.sqrt(1 - beta2**step))
        torch._foreach_add_(spread, self.eps)
        updates = torch._foreach_div(fast, 1 - beta1**step)
        torch._foreach_add_(updates, slow, alpha=self.alpha * self._risen(step))
        torch._foreach_div_(updates, spread)
        # Decoupled, as in AdamW: the decay is not divided by the spread.
        torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
        torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _moments(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        return [_local(self.state[parameter][name]) for parameter in parameters]

    def slow_beta(self, step: int) -> float:
        """The decay of the slow average: its half-life rises linearly (paper, appendix A.1).

        Args:
            step: From 1.
        """
        beta1, _, beta3 = self.betas
        risen = self._risen(step)
        # The logarithm of 0 does not exist.
        if risen == 1 or beta1 == 0:
            return beta3
        of_fast, of_slow = math.log(beta1), math.log(beta3)
        return min(beta3, math.exp(of_fast * of_slow / ((1 - risen) * of_slow + risen * of_fast)))

    def _risen(self, step: int) -> float:
        return min(1.0, step / self.alpha_steps) if self.alpha_steps else 1.0


def _local(value: Tensor) -> Tensor:
    # Under FSDP2 a parameter and its state are DTensors; the step works on this rank's shard.
    return value.to_local() if isinstance(value, DTensor) else value
