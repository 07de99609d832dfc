"""FSDP2: weights, gradients and optimizer state are sharded over all processes.

Each encoder block of both towers is gathered and reduced as one; what is left, with the model.
Price: each block is gathered once a step, or with `reshard` once a chunk and pass, so that only one
block at a time is whole.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from align_train.strategy.base import RunFacts, StaysInPlace, StrategyRecipe
from align_train.strategy.needs import ALL_GATHER, REDUCE_SCATTER, Needs, Sent, Sizes, size_of


@dataclass(frozen=True, kw_only=True)
class FSDP(StrategyRecipe):
    """FSDP2 over all processes.

    Attributes:
        reshard: True: give gathered blocks back after each chunk's forward and backward pass, so
            that one block at a time is whole, and gather them again for the next chunk. False:
            gather them once a step (a step of many chunks would gather as many times).
    """

    keeps_whole = False

    reshard: bool

    @property
    def label(self) -> str:
        """`fsdp`."""
        return "fsdp"

    @property
    def can_lock_blocks(self) -> bool:
        """Not with `reshard`: FSDP2 gathers a block for its gradient, and a locked one has none."""
        return not self.reshard

    @property
    def can_try_chunks(self) -> bool:
        """Not with `reshard`: each pass gathers weights, so that all ranks must finish it."""
        return not self.reshard

    def needs(self, sizes: Sizes) -> Needs:
        """A share of everything; whole weights during the passes, or with `reshard` a block's."""
        world = sizes.world
        # Each weight is cut along its first dimension, which is padded to equal parts.
        rest = size_of(sizes.rest, rows=world)
        blocks = [size_of(block, rows=world) for block in sizes.blocks]
        weights = rest + sum(blocks)
        largest = max([rest, *blocks])

        def share(size: int) -> int:
            return round(size / world * weights / sizes.weights)

        # A pass gathers blocks again; what is left is gathered once.
        passes = sizes.chunks * (3 if sizes.recompute else 2) if self.reshard else 1
        sent: Sent = Counter()
        sent[ALL_GATHER, sum(blocks)] += passes
        sent[ALL_GATHER, rest] += 1
        sent[REDUCE_SCATTER, share(sizes.gradients) * world] += 1
        return Needs(
            weights=share(sizes.weights),
            gradients=share(sizes.gradients),
            optimizer=share(sizes.state),
            ema=share(sizes.gradients) if sizes.ema else 0,
            whole=rest + max(blocks, default=0) if self.reshard else weights,
            # A block's gradients, whole; as they are sent, one after the other; and its share.
            buffers=2 * largest + largest // world,
            working=share(sizes.working),
            keeps_gradients="step" if sizes.on_gpu else "passes",
            moves_gradients=True,
            kept="rows",
            sent=sent,
        )

    def build(self, run: RunFacts) -> Strategy:
        """The strategy for Lightning's trainer."""
        return _Sharded(
            reshard=self.reshard,
            process_group_backend=run.backend,
            timeout=timedelta(seconds=run.timeout),
        )


class _Sharded(StaysInPlace):
    def __init__(self, *, reshard: bool, process_group_backend: str, timeout: timedelta) -> None:
        super().__init__(process_group_backend=process_group_backend, timeout=timeout)
        self.reshard = reshard

    # Gradients are sent by hooks of the model's passes, in their order.
    needs_a_pass = True
    repeats_backward = False

    @property
    def repeats_forward(self) -> bool:
        """Only if weights are gathered once a step: a failed pass has gathered fewer of them."""
        return not self.reshard

    def keep_weights_whole(self) -> bool:
        """Gathers all weights, unless they are given back after each chunk."""
        if self.reshard:
            return False
        for part in self._towers.modules():
            if isinstance(part, FSDPModule):
                part.unshard()
        return True

    def give_weights_back(self) -> None:
        """Shards all weights again."""
        self.forget_passes()
        self._reshard()

    def forget_passes(self) -> None:
        """Ends passes that failed as FSDP2 ends a backward pass; weights stay whole.

        A block that is left in the middle of its forward pass would send its gradients late in the
        next one. FSDP2's own way would give the weights back, which not all ranks would do.
        """
        state: Any = cast("FSDPModule", self._towers)._get_fsdp_state()
        state._state_ctx.manual_backward_finalization_active = False
        state._root_post_backward_final_callback()

    @property
    def _towers(self) -> nn.Module:
        return cast("nn.Module", self._module.model)

    def configure_ddp(self) -> None:
        """Shards the model instead of letting Lightning wrap it in DDP."""
        # FSDP2 takes weights of no other memory format. Images stay channels last.
        model = self._towers.to(memory_format=torch.contiguous_format)
        blocks = cast("list[nn.Module]", model.blocks)
        # One dimension: all ranks share one copy of the weights.
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))

        # The blocks before the model around them: each is then gathered by itself, and the rest as
        # one.
        for block in blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=self.reshard)
            if self.reshard:
                block.register_forward_hook(_reshard_second_pass)

        # The loss wants the temperature after the forward pass, so that must stay whole.
        sharded = fully_shard(model, mesh=mesh, reshard_after_forward=False)
        if not self.reshard:
            sharded.set_reshard_after_backward(False)

    def post_backward(self, closure_loss: Tensor) -> None:
        """Gives back what was gathered, once, after the last chunk: the step makes it stale."""
        if not self.reshard:
            self._reshard()

    def _reshard(self) -> None:
        for part in self._towers.modules():
            if isinstance(part, FSDPModule):
                part.reshard()


def _reshard_second_pass(block: nn.Module, *_: object) -> None:
    # FSDP2 leaves a block whole that is run again during backward, since its gradient is due next.
    # But if a whole chunk is run again, so are all other blocks first.
    during_backward = torch._C._current_graph_task_id() != -1
    if during_backward and isinstance(block, FSDPModule):
        block.reshard()
