"""Workarounds for Lightning: its notices, devices, child processes and signal handlers."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import lightning
import torch
from lightning.pytorch.accelerators import Accelerator, CUDAAccelerator

from align_train.cluster.watchdog import Watchdog
from align_train.commands.devices import sees_own_gpu_only
from align_train.config.schema import TrainSettings

# Notices about things that we do on purpose.
_EXPECTED_NOTICES = (
    ".*broadcast_buffers.*deprecated.*",
    ".*does not have many workers.*",
    ".*`LightningModule.configure_gradient_clipping`.*",
    ".*IterableDataset.*",
    # The module leaves batches on the host; the data has no say in that.
    ".*overridden `transfer_batch_to_device` in `LightningModule`.*",
    # Lightning's own use of torch.
    ".*treespec.*",
    # It is resumable, by the cursor.
    ".*your dataloader is not resumable.*",
    ".*smaller than the logging interval.*",
    # A locked tower.
    ".*in eval mode at the start of training.*",
    # TF32 is off (`torch_flags.py`).
    ".*TensorFloat32 tensor cores.*",
    # On a machine with Slurm a run without it is no mistake.
    ".*srun. command is available.*",
)


def quieten() -> None:
    """Silences Lightning's notices about what we do on purpose; its other warnings stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for pattern in _EXPECTED_NOTICES:
        warnings.filterwarnings("ignore", pattern)


def accelerator_of(settings: TrainSettings) -> str | Accelerator:
    """Chooses the accelerator; ours if each process of a machine sees its own GPU only.

    Args:
        settings: The run's settings.
    """
    if settings.trainer.on_gpu and sees_own_gpu_only(torch.cuda.device_count()):
        # Lightning would give this process a GPU of a number that it does not see.
        return _OwnGpu()
    return settings.trainer.accelerator


class _OwnGpu(CUDAAccelerator):
    """For processes that see one GPU each: all of them take number 0."""

    @staticmethod
    def parse_devices(devices: int | str | list[int]) -> list[int]:
        """The numbers of the processes, which Lightning counts devices by."""
        return list(range(int(devices)))  # type: ignore[arg-type]

    @staticmethod
    def get_parallel_devices(devices: list[int]) -> list[torch.device]:
        """The GPU of each process of the machine, as that process calls it."""
        return [torch.device("cuda", 0) for _ in devices]


def watch_children(trainer: lightning.Trainer, watchdog: Watchdog) -> None:
    """Tells the watchdog of a process that this one started and that has ended.

    Lightning has no hook for that: our launcher notes it (`strategy/children.py`).

    Args:
        trainer: Lightning's trainer, built with a strategy of ours.
        watchdog: Watches over the run's processes.
    """
    children: Any = trainer.strategy.launcher
    watchdog.ended_child = lambda: getattr(children, "ended", None)


def leave_signals(trainer: lightning.Trainer) -> None:
    """Leaves signals to `Stopping`.

    Lightning's handlers save and communicate within the handler, at any point of a step.

    Args:
        trainer: Lightning's trainer.
    """
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None
