"""An optimizer of our own: groups are stepped one after another, by lists of tensors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from align_train.optim.groups import Group


class GroupOptimizer(Optimizer):
    """Base class: a subclass says how a group steps, and which moments it keeps."""

    moments: ClassVar[tuple[str, ...]]
    """The names of the moments, each shaped like its parameter and zero at first."""

    @torch.no_grad()
    def step(self, closure: Callable[[], object] | None = None) -> Any:
        """Updates all parameters that have a gradient. LAMB's is collective if any are in parts.

        Args:
            closure: Computes the gradients first; None: they are there.

        Returns:
            What the closure returns.
        """
        result = None
        if closure is not None:
            # The step itself records no gradients, and the closure needs them.
            with torch.enable_grad():
                result = closure()

        for group in self.param_groups:
            # A locked parameter, or one that the loss does not reach, has no gradient.
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._step_group(group, parameters)
        return result

    @abstractmethod
    def _step_group(self, group: Group, parameters: list[Tensor]) -> None:
        """Updates the parameters of a group, at least one, all of which have gradients."""

    def _count_step(self, parameters: list[Tensor]) -> int:
        """Counts the step of a group's parameters, and makes their state before the first one.

        Returns:
            The step, from 1: parameters of a group step together, so one number serves all.
        """
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                # On the CPU, as PyTorch has it: to read it must not wait for a GPU.
                state["step"] = torch.zeros(())
                for name in self.moments:
                    state[name] = torch.zeros_like(parameter)
        # One call for hundreds of counters.
        torch._foreach_add_([self.state[parameter]["step"] for parameter in parameters], 1)
        return int(self.state[parameters[0]]["step"])
