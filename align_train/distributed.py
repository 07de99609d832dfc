"""Collectives over the default process group, with the gradients that a mean over ranks needs.

Every function is the identity when no process group exists, so that one process needs no second code path. What is sent:
`gather_with_gradient` of `[n, d]` sends n·d floats per rank forward (all-gather) and back (reduce-scatter).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        gathered = local.new_empty((world_size() * local.shape[0], *local.shape[1:]))
        dist.all_gather_into_tensor(gathered, local.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        local = gradient.new_empty((gradient.shape[0] // world_size(), *gradient.shape[1:]))
        dist.reduce_scatter_tensor(local, gradient.contiguous())
        return local


def gather_with_gradient(local: Tensor) -> Tensor:
    """`[n, …]` on each rank (the same n) -> `[world * n, …]` on all, in rank order.

    The gradient that comes back is the *sum* over ranks of what each rank's loss asks of this part.
    """
    gathered: Tensor = _GatherWithGradient.apply(local) if world_size() > 1 else local
    return gathered


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean over ranks, on every rank, without a gradient. `value` is left alone."""
    return sum_over_ranks(value) / world_size()


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum over ranks, on every rank, without a gradient. `value` is left alone."""
    value = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def whole(value: Tensor) -> Tensor:
    """The full tensor of a sharded one (FSDP2's DTensor); any other as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def gather_rows(local: Tensor, total: int) -> Tensor:
    """Rows `rank::world` of a `[total, …]` table on each rank -> the whole table, in order, on every rank; no gradient.

    Ranks may hold unequal counts (they differ by one at most): the short ones are padded on the way.
    """
    world = world_size()
    if world == 1:
        return local
    longest = -(-total // world)
    padded = local.new_zeros((longest, *local.shape[1:]))
    padded[: local.shape[0]] = local
    gathered = local.new_empty((world * longest, *local.shape[1:]))
    dist.all_gather_into_tensor(gathered, padded)
    by_rank = gathered.view(world, longest, *local.shape[1:])
    return by_rank.transpose(0, 1).reshape(world * longest, *local.shape[1:])[:total]
