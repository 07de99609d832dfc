"""An exponential moving average of the weights (EMA), evaluated in their place and saved beside them.

After each step: average += (1 - d) · (weights - average), with d = min(decay, (1 + step) / (10 + step)), so that a young
average forgets where it began. Each rank averages what it holds: the shard under FSDP2 and ZeRO-3, the whole otherwise.
BatchNorm's statistics are averages already, and go along as they are. Price: the weights once more, in memory and in the
checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning
import torch
from lightning import Callback
from torch import Tensor, nn

from align_train.errors import UserError
from align_train.strategy.layout import (
    local_like,
    local_values,
    trained_parameters,
    whole_like,
    whole_state_dict,
)
from align_train.training.module import TrainingModule


class Averaging(Callback):
    """decay: what is kept of the average each step, e.g. 0.9999; None: there is no average."""

    def __init__(self, *, decay: float | None) -> None:
        if decay is not None and not 0 <= decay < 1:
            raise UserError(f"ema={decay}: expected a decay in [0, 1), e.g. 0.9999, or null")
        self.decay = decay
        self._average: dict[str, Tensor] = {}

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if self.decay is not None and not self._average:
            self._average = {
                name: local_values(parameter)[0].clone() for name, parameter in _trained(module)
            }

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any
    ) -> None:
        if self.decay is None:
            return
        decay = min(self.decay, (1 + trainer.global_step) / (10 + trainer.global_step))
        weights = [local_values(parameter)[0] for _, parameter in _trained(module)]
        torch._foreach_lerp_(list(self._average.values()), weights, 1 - decay)

    def weights(self, module: TrainingModule, *, keep: bool = True) -> dict[str, Tensor]:
        """The model's state dict to evaluate, full tensors: averaged where there is an average. All ranks must ask."""
        state = whole_state_dict(module.model, keep=keep)
        if self._average:
            state |= self._whole(module, keep=keep)
        return state

    def _whole(self, module: lightning.LightningModule, *, keep: bool) -> dict[str, Tensor]:
        whole = (
            (name, whole_like(parameter, self._average[name]))
            for name, parameter in _trained(module)
        )
        return {name: value.cpu() for name, value in whole if keep}

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        if self._average:
            checkpoint["ema"] = self._whole(module, keep=trainer.is_global_zero)

    def on_load_checkpoint(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """What had no average so far, the whole run or a tower that was locked, begins with the weights as they are."""
        if self.decay is not None and "ema" in checkpoint:
            saved = checkpoint["ema"]
            self._average = {
                name: (
                    local_like(parameter, saved[name])
                    if name in saved
                    else local_values(parameter)[0]
                ).clone()
                for name, parameter in _trained(module)
            }


def _trained(module: lightning.LightningModule) -> Iterator[tuple[str, nn.Parameter]]:
    assert isinstance(module, TrainingModule)
    return trained_parameters(module.model)
