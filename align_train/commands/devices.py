"""The device that a command computes on, and the loader that feeds it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from align_train.cluster import launcher
from align_train.cluster.group import join
from align_train.commands.torch_flags import set_torch_flags
from align_train.config.command_schema import EmbedSettings, EvaluateSettings, ScoreSettings
from align_train.errors import UserError

# Far beyond any machine: they catch typing errors before something overflows.
_MOST_ROWS = 1_000_000
_MOST_WORKERS = 1000

_MOST_BY_DEFAULT = 16  # loader processes of a rank: more seldom read faster than one GPU embeds

_QUOTED = 100  # characters of torch's reason that an error quotes


def device_of(name: str) -> torch.device:
    """Finds the device of this process, and makes torch's global choices before it is used.

    Each process that a launcher started has its own GPU of the machine, or the only one that it
    may see.

    Args:
        name: `cpu`, `cuda` or `cuda:N`.

    Returns:
        The device.

    Raises:
        UserError: There is none of that name.
    """
    set_torch_flags()
    # torch itself says whether a device works; a list of names would not know.
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("not cpu or cuda")
        started = launcher.current()
        if device == torch.device("cuda") and started.started_all:
            # Slurm may show each task its own GPU only: then all of them are number 0.
            count = max(torch.cuda.device_count(), 1)
            device = torch.device("cuda", started.local_rank % count)
        # A name can be right without a GPU behind it: an allocation fails then.
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        # A torch without CUDA raises AssertionError for a GPU.
        reason = str(error).splitlines()[0][:_QUOTED]
        raise UserError(f"device={name}: not there ({reason}); take device=cpu") from None
    return device


def sees_own_gpu_only(visible: int) -> bool:
    """Whether each process of a machine was given one GPU, and sees no other.

    Slurm's `--gpus-per-task` and some sites do so. Each process's GPU is then its number 0.

    Args:
        visible: How many GPUs this process sees.
    """
    started = launcher.current()
    return visible == 1 and started.started_all and started.processes_per_node > 1


@contextmanager
def joined(name: str, *, timeout: float) -> Iterator[torch.device]:
    """Joins all that torchrun or srun has started in a process group.

    Args:
        name: As of `device_of`.
        timeout: Seconds that a collective may take.

    Yields:
        The device of this process.

    Raises:
        UserError: It is not there, or two processes would share it.
    """
    device = device_of(name)
    started = launcher.current()
    if device.type == "cuda" and started.started_all and started.world_size > 1:
        # NCCL wants a GPU for each rank. A process that sees a single one has that.
        count = torch.cuda.device_count()
        if name != "cuda" or started.local_rank >= count > 1:
            raise UserError(
                f"device={name}: process {started.local_rank} of this machine, which has {count} "
                f"GPUs, needs one for itself; give device=cuda, and start one process per GPU"
            )
        # Otherwise whatever names no device would take memory of GPU 0, for all ranks.
        torch.cuda.set_device(device)

    with join(device, timeout=timeout):
        yield device


def check_loader(settings: EmbedSettings | EvaluateSettings | ScoreSettings) -> None:
    """Checks the loader of a command that embeds images.

    Args:
        settings: The command's settings.

    Raises:
        UserError: The chunk size or the number of workers is out of bounds.
    """
    chunk_size = settings.chunk_size
    workers = settings.workers or 0
    if not 1 <= chunk_size <= _MOST_ROWS or not 0 <= workers <= _MOST_WORKERS:
        raise UserError(
            f"chunk_size={chunk_size}, workers={workers}: "
            f"expected 1 to {_MOST_ROWS:,} rows, and 0 to {_MOST_WORKERS:,} processes"
        )


def loader_workers(given: int | None, device: torch.device) -> int:
    """The loader processes of a rank.

    Args:
        given: The setting.
        device: This rank's device.

    Returns:
        The setting; if it is None, 1 on a CPU, whose cores the towers need, and on a GPU the CPU
        cores of a rank, at most 16.
    """
    if given is not None:
        return given
    if device.type == "cpu":
        return 1
    # Not `os.cpu_count`: Slurm or a container may give this process some of the cores only.
    cores = len(os.sched_getaffinity(0)) // max(launcher.processes_per_node(), 1)
    return min(max(cores, 1), _MOST_BY_DEFAULT)
