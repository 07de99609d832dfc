"""Strategies: who computes which chunk, and who keeps which weights. One engine each, behind Lightning's DDP strategy, which
launches the processes, names the ranks and forms the group.

Whatever the engine, a checkpoint is one file of whole tensors that belongs to none of them (`engines.py`): all ranks take part
in gathering it, rank 0 writes it, and any number of ranks under any strategy goes on from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from align_train.cluster.collectives import raise_on_all_ranks
from align_train.strategy.children import Launcher
from align_train.strategy.layout import fill_state_dict, whole_state_dict
from align_train.strategy.optimizer_state import fill_optimizer_state, whole_optimizer_state


class WholeCheckpoints(Strategy):
    """Checkpoints of whole tensors. A mixin, before Lightning's strategy of that name."""

    # Whether the engine has its own way from gradients to the step, clipping included.
    steps_alone = False

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True

    @property
    def _module(self) -> lightning.LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return whole_state_dict(self._module, keep=self.is_global_zero)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        fill_state_dict(self._module, checkpoint["state_dict"])

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return whole_optimizer_state(self._module, optimizer, keep=self.is_global_zero)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            fill_optimizer_state(self._module, optimizer, state)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        with raise_on_all_ranks(self.root_device):
            super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Mapped, not read: each rank touches what it keeps."""
        loaded: dict[str, Any] = torch.load(
            checkpoint_path, map_location="cpu", weights_only=True, mmap=True
        )
        return loaded


class OneProcess(WholeCheckpoints, SingleDeviceStrategy):
    pass


TIMEOUT = 1800.0


def backend(on_gpu: bool) -> str:
    return "nccl" if on_gpu else "gloo"


class Replicated(WholeCheckpoints, DDPStrategy):
    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = Launcher(self.cluster_environment, self.num_processes, self.num_nodes)


class StaysInPlace(Replicated):
    """A strategy whose engine keeps weights in parts and places of its own: nothing is moved to the CPU at the end."""

    def teardown(self) -> None:
        assert self.accelerator is not None
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()
