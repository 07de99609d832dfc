from __future__ import annotations

from datetime import timedelta

from lightning.pytorch.strategies import Strategy

from align_train.strategy.base import TIMEOUT, OneProcess, Replicated, backend


def ddp(
    *,
    processes: int,
    on_gpu: bool,
    bf16: bool = False,
    clip: float | None = None,
    timeout: float = TIMEOUT,
) -> Strategy:
    """One replica per process. timeout: seconds in which processes must have found each other, and that a collective may take.

    broadcast_buffers is off: BatchNorm's statistics are made alike on all ranks once a step (chunks.py), and a broadcast in
    each forward would be waste. Every parameter is used in every step, so none is searched for.
    """
    if processes == 1:
        return OneProcess(device="cuda:0" if on_gpu else "cpu")
    return Replicated(
        process_group_backend=backend(on_gpu),
        timeout=timedelta(seconds=timeout),
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        find_unused_parameters=False,
    )
