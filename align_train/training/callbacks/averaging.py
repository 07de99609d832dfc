"""An exponential moving average of the weights (EMA), evaluated in their place, saved beside them.

After each step: average += (1 - d) · (weights - average), with d = min(decay, (1 + step) / (10 +
step)), so that a young average forgets where it began. Each rank averages the part that it holds:
the shard under FSDP2 and ZeRO-3, the whole otherwise. BatchNorm's statistics are averages already
and are used as they are.

Price: the weights once more, in memory and in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from align_train.errors import UserError
from align_train.strategy.layout import (
    local_like,
    local_values,
    trained_parameters,
    whole_like,
    whole_state_dict,
)
from align_train.training.module import TrainingModule

_KEY = "ema"  # in the checkpoint


class Averaging:
    """The average of the trained parameters."""

    def __init__(self, *, decay: float | None) -> None:
        """Averages nothing yet.

        Args:
            decay: The share of the average that is kept each step, e.g. 0.9999; None: there is no
                average.

        Raises:
            UserError: The decay lies outside [0, 1).
        """
        if decay is not None and not 0 <= decay < 1:
            raise UserError(f"ema={decay}: expected a decay in [0, 1), e.g. 0.9999, or null")
        self.decay = decay
        self._average: dict[str, Tensor] = {}

    def start(self, module: TrainingModule) -> None:
        """Begins with the weights as they are, unless a checkpoint has brought an average.

        Args:
            module: The module, laid out by its strategy.
        """
        if self.decay is None or self._average:
            return
        for name, parameter in trained_parameters(module.model):
            # A copy: each step changes the parameter's own values in place.
            self._average[name] = local_values(parameter)[0].clone()

    @torch.no_grad()
    def average(self, module: TrainingModule, *, step: int) -> None:
        """Takes a step's weights into the average.

        Args:
            module: The module after the step.
            step: The step, from 1.
        """
        if self.decay is None:
            return

        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [local_values(parameter)[0] for _, parameter in trained_parameters(module.model)]
        # Both lists are in the model's order: `start` and `load` have filled the average by it.
        torch._foreach_lerp_(list(self._average.values()), weights, 1 - decay)

    def weights(self, module: TrainingModule, *, keep: bool = True) -> dict[str, Tensor]:
        """The state dict to evaluate: whole tensors, averaged if there is an average. Collective.

        Args:
            module: The module.
            keep: False on a rank that only takes part; its dict is empty.
        """
        state = whole_state_dict(module.model, keep=keep)
        if self._average:
            state |= self._whole(module, keep=keep)
        return state

    def save(self, module: TrainingModule, checkpoint: dict[str, object], *, keep: bool) -> None:
        """Adds the average to a checkpoint. Collective.

        Args:
            module: The module.
            checkpoint: Changed in place.
            keep: False on a rank that only takes part.
        """
        if self._average:
            checkpoint[_KEY] = self._whole(module, keep=keep)

    def load(self, module: TrainingModule, checkpoint: Mapping[str, Any]) -> None:
        """Takes the average from a checkpoint.

        A parameter without an average so far (its tower was locked) begins with its weights.

        Args:
            module: The module, with the checkpoint's weights.
            checkpoint: The checkpoint.
        """
        if self.decay is None or _KEY not in checkpoint:
            return

        saved = checkpoint[_KEY]
        self._average = {}
        for name, parameter in trained_parameters(module.model):
            if name in saved:
                value = local_like(parameter, saved[name])
            else:
                value = local_values(parameter)[0]
            self._average[name] = value.clone()

    def _whole(self, module: TrainingModule, *, keep: bool) -> dict[str, Tensor]:
        state = {}
        for name, parameter in trained_parameters(module.model):
            # Collective: on a rank that does not keep it, too.
            value = whole_like(parameter, self._average[name])
            if keep:
                state[name] = value.cpu()
        return state
