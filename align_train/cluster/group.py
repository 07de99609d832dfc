"""The process group of a command that a launcher has started on several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from align_train.cluster import launcher
from align_train.errors import Lost, UserError, one_line

_TO_MEET = timedelta(minutes=2)  # of processes that `join` each other


@contextmanager
def join(device: torch.device, *, timeout: float) -> Iterator[None]:
    """Joins the processes that the launcher has started in a process group; alone, in none.

    For commands that evaluate; training leaves this to Lightning, at the same rendezvous.

    Args:
        device: This process's.
        timeout: Seconds that a collective may take.

    Yields:
        Once all processes have come. The group ends with the block. If the block raises, the group
        stays: NCCL would wait for the others to end it too, before anybody learns of the error.

    Raises:
        UserError: On rank 0, if the port is not free.
        Lost: They have not come within two minutes.
    """
    started = launcher.current()
    if not started.started_all or started.world_size == 1:
        yield
        return

    host, port = started.rendezvous
    try:
        # A store of our own: `init_process_group` would wait as long as a collective may take.
        store = TCPStore(
            host,
            port,
            started.world_size,
            is_master=started.rank == 0 and not started.keeps_store,
            timeout=_TO_MEET,
        )
    except dist.DistError as error:
        reason = one_line(error, 100)
        if "EADDRINUSE" in str(error):
            raise UserError(f"port {port} on {host} is not free; set MASTER_PORT") from None
        raise Lost(
            f"task {started.rank} does not reach the first one at {host}:{port} ({reason}); "
            f"set MASTER_ADDR and MASTER_PORT to where that can be reached"
        ) from None
    on_gpu = device.type == "cuda"
    if on_gpu:
        leave_errors_to_watchdog()
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=started.rank,
        world_size=started.world_size,
        timeout=timedelta(seconds=timeout),
        # Otherwise NCCL guesses the GPU from the rank: wrong if tasks see more GPUs than they are.
        device_id=device if on_gpu else None,
    )

    yield
    dist.destroy_process_group()


def leave_errors_to_watchdog() -> None:
    """Keeps NCCL from killing this process, without a message, as soon as a peer is gone.

    The watchdog says which process it was, and ends those that hang.
    """
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
