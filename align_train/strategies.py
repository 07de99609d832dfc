"""Strategies: who computes which chunk. Each builds Lightning's strategy with the settings that our step relies on."""

from __future__ import annotations

from lightning.pytorch.strategies import DDPStrategy, Strategy


def ddp(*, processes: int, on_gpu: bool) -> Strategy | str:
    """One replica per process. One process needs no replication: Lightning's own choice then.

    broadcast_buffers is off: BatchNorm's statistics are made alike on all ranks once a step (chunks.py), and a broadcast in
    each forward would be waste. Every parameter is used in every step, so none is searched for.
    """
    if processes == 1:
        return "auto"
    return DDPStrategy(
        process_group_backend="nccl" if on_gpu else "gloo",
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        find_unused_parameters=False,
    )
