"""What all strategies share: the recipe that settings name, and checkpoints of whole tensors.

Each strategy stands on Lightning's DDP strategy, which starts the processes, numbers the ranks and
forms the process group.

A checkpoint is one file of whole tensors under every strategy (`layout.py`): all ranks take part in
gathering it and rank 0 writes it. So a run continues on any number of ranks under any strategy.
Price: one parameter at a time is whole on every rank, and rank 0 holds all of them on its CPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from align_train.cluster.collectives import raise_on_all_ranks
from align_train.strategy.children import Children
from align_train.strategy.layout import fill_state_dict, whole_state_dict
from align_train.strategy.needs import Needs, Sizes
from align_train.strategy.optimizer_state import fill_optimizer_state, whole_optimizer_state

TIMEOUT = 1800.0  # seconds

Checkpoint = Mapping[str, Any]
"""As Lightning reads it: `state_dict`, `optimizer_states` and what callbacks have added."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a strategy must know of the run that it serves.

    Attributes:
        processes: How many there are, on all machines together.
        on_gpu: Whether each has a GPU; else all compute on CPUs.
        bf16: Whether the forward pass runs under bf16 autocast.
        clip: The largest gradient norm; None: gradients are not clipped.
        timeout: Seconds in which the processes must have met, and that a collective may take.
    """

    processes: int
    on_gpu: bool
    bf16: bool = False
    clip: float | None = None
    timeout: float = TIMEOUT

    @property
    def backend(self) -> str:
        """The backend of the process group."""
        return "nccl" if self.on_gpu else "gloo"


class StrategyRecipe(ABC):
    """A strategy as settings name it: says what it can do, then builds it.

    A strategy of a user's own package is a subclass, named by `strategy._target_`. What `build`
    returns is a Lightning strategy with the methods of `WholeCheckpoints`.
    """

    can_skip_steps = True
    """Whether a step with a gradient that is not finite can be left out: the strategy then knows
    the gradient before it steps."""

    keeps_whole = True
    """Whether the optimizer sees whole parameters, and not shards or flat tensors."""

    @property
    def can_lock_blocks(self) -> bool:
        """Whether the lower blocks of a tower may be locked, and the upper ones trained."""
        return True

    @property
    def can_try_chunks(self) -> bool:
        """Whether passes may run out of memory on some ranks alone, as `auto` wants to try."""
        return True

    @property
    @abstractmethod
    def label(self) -> str:
        """A few words for the run's summary, such as `deepspeed stage 2`."""

    @property
    def can_compile(self) -> bool:
        """Whether blocks may be compiled."""
        return True

    def needs(self, sizes: Sizes) -> Needs | None:
        """What a rank holds and sends under it; None: nobody has a formula.

        Args:
            sizes: Of the model and the step.
        """
        return None

    @abstractmethod
    def build(self, run: RunFacts) -> Strategy:
        """The strategy for Lightning's trainer.

        Raises:
            UserError: A library or device that it needs is missing.
        """


class WholeCheckpoints(Strategy):
    """Checkpoints of whole tensors. A mixin: it stands before a strategy of Lightning's."""

    # Whether the strategy goes from gradients to the step by itself, clipping included. Then its
    # method `gradient_norm` gives the norm of the last step.
    steps_alone = False

    # Whether a step whose backward pass ran out of memory can be made again.
    repeats_backward = True
    # Whether only a pass of the model makes gradients that reach the other ranks.
    needs_a_pass = False

    @property
    def repeats_forward(self) -> bool:
        """Whether a step whose forward pass ran out of memory can be made again."""
        return True

    def keep_weights_whole(self) -> bool:
        """Makes weights whole until the backward pass is over, if they stay so; else False."""
        return True

    def give_weights_back(self) -> None:
        """Undoes `keep_weights_whole` and forgets the passes since, which no step follows."""

    def forget_passes(self) -> None:
        """Forgets forward passes of which one failed; weights stay whole."""

    def forget_gradients(self) -> None:
        """Drops the gradients of a backward pass that no step follows."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Always: parameters must be laid out before they are filled."""
        return True

    @property
    def _module(self) -> lightning.LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    def lightning_module_state_dict(self) -> dict[str, Tensor]:
        """The module's whole tensors on rank 0, nothing on the others. Collective."""
        return whole_state_dict(self._module, keep=self.is_global_zero)

    def load_model_state_dict(self, checkpoint: Checkpoint, strict: bool = True) -> None:
        """Fills the module, wherever this rank holds a part of it; always strict."""
        fill_state_dict(self._module, checkpoint["state_dict"])

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's whole moments on rank 0. Collective."""
        return dict(whole_optimizer_state(self._module, optimizer, keep=self.is_global_zero))

    def load_optimizer_state_dict(self, checkpoint: Checkpoint) -> None:
        """Fills the optimizers, wherever this rank holds a part of their state."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            fill_optimizer_state(self._module, optimizer, state)

    def save_checkpoint(
        self, checkpoint: dict[str, object], filepath: str | Path, storage_options: object = None
    ) -> None:
        """Writes a checkpoint on rank 0. Collective: if that fails, every rank raises OSError."""
        with raise_on_all_ranks(self.root_device):
            super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Maps a checkpoint into memory: each rank reads only what it keeps."""
        # Otherwise each rank would read the whole file into memory of its own.
        loaded: dict[str, Any] = torch.load(
            checkpoint_path, map_location="cpu", weights_only=True, mmap=True
        )
        return loaded


class OneProcess(WholeCheckpoints, SingleDeviceStrategy):
    """One process, one device, no process group."""


class Replicated(WholeCheckpoints, DDPStrategy):
    """Lightning's DDP strategy that says why a process ended."""

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = Children(self.cluster_environment, self.num_processes, self.num_nodes)

    def _setup_model(self, model: nn.Module) -> DistributedDataParallel:
        # Lightning does it on a stream of its own. Gradients then belong to that stream: in each
        # step torch would wait for an event for every parameter and chunk, and warn on every rank.
        ids = self.determine_ddp_device_ids()
        return DistributedDataParallel(model, device_ids=ids, **self._ddp_kwargs)


class StaysInPlace(Replicated):
    """A strategy that keeps parts of the weights in places of its own.

    Lightning would move the module to the CPU at the end, which those parts do not survive.
    """

    def teardown(self) -> None:
        """Ends all but the module."""
        assert self.accelerator is not None
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()
