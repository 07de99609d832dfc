from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from align_train.strategy.base import TIMEOUT, StaysInPlace, backend


class _Sharded(StaysInPlace):
    """FSDP2: each encoder block of both towers is gathered and reduced as one, what is left with the model."""

    def __init__(self, *, reshard: bool, process_group_backend: str, timeout: timedelta) -> None:
        super().__init__(process_group_backend=process_group_backend, timeout=timeout)
        self.reshard = reshard

    def configure_ddp(self) -> None:
        model: Any = self._module.model.to(
            memory_format=torch.contiguous_format
        )  # it takes no other; pictures stay as they are
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for block in model.blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=self.reshard)
            if self.reshard:
                block.register_forward_hook(_reshard_second_pass)
        fully_shard(
            model, mesh=mesh, reshard_after_forward=False
        )  # the loss wants the temperature after the forward pass
        if not self.reshard:
            model.set_reshard_after_backward(False)

    def post_backward(self, closure_loss: Tensor) -> None:
        if (
            not self.reshard
        ):  # once, after the last chunk: what was gathered is stale after the step
            for part in self._module.model.modules():  # type: ignore[union-attr]
                if isinstance(part, FSDPModule):
                    part.reshard()


def _reshard_second_pass(block: Any, *_: Any) -> None:
    """FSDP2 leaves a block whole that is run again in backward, since its gradient is due next; but where a chunk is run
    again, so are all other blocks first."""
    if torch._C._current_graph_task_id() != -1:
        block.reshard()


def fsdp(
    *,
    processes: int,
    on_gpu: bool,
    bf16: bool = False,
    clip: float | None = None,
    timeout: float = TIMEOUT,
    reshard: bool = False,
) -> Strategy:
    """FSDP2: weights, gradients and optimizer state are sharded over all processes.

    reshard: give gathered blocks back after each chunk's forward and backward, so that one block at a time is whole, and
    gather them again for the next chunk; else once a step (a step with many chunks would gather as many times).
    """
    return _Sharded(
        reshard=reshard, process_group_backend=backend(on_gpu), timeout=timedelta(seconds=timeout)
    )
