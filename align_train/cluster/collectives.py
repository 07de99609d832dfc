"""Collectives over the default process group.

Every function is the identity when no process group exists, so that one process needs no second code path.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from align_train.errors import UserError

_alone = False


def world_size() -> int:
    return dist.get_world_size() if _in_group() else 1


def rank() -> int:
    return dist.get_rank() if _in_group() else 0


def _in_group() -> bool:
    return not _alone and dist.is_available() and dist.is_initialized()


def settle_before_fork() -> None:
    """Waits for the threads that have completed the last collective. Python 3.11 hangs for ever in a child that was forked in
    the moment in which another thread made or ended its state (`HEAD_LOCK` is held; seen once in some hundred starts)."""
    if world_size() > 1:
        time.sleep(0.1)


@contextmanager
def alone() -> Iterator[None]:
    """In here this process acts as if it were the only one."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def gather(local: Tensor) -> Tensor:
    """`[n, …]` on each rank (the same n) -> `[world * n, …]` on all, in rank order; no gradient."""
    if world_size() == 1:
        return local
    gathered = local.new_empty((world_size() * local.shape[0], *local.shape[1:]))
    dist.all_gather_into_tensor(gathered, local.contiguous())
    return gathered


def scatter_sum(every: Tensor) -> Tensor:
    """`[world * n, …]` on each rank -> the sum over ranks of this rank's own `[n, …]`."""
    if world_size() == 1:
        return every
    own = every.new_empty((every.shape[0] // world_size(), *every.shape[1:]))
    dist.reduce_scatter_tensor(own, every.contiguous())
    return own


def all_reduce_(value: Tensor, operation: Literal["sum", "max"] = "sum") -> Tensor:
    """The sum or the largest over ranks, in place; returns it."""
    if world_size() > 1:
        dist.all_reduce(value, {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[operation])
    return value


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum over ranks, on every rank, without a gradient. `value` is left alone."""
    return all_reduce_(value.detach().clone())


def gather_texts(text: str, device: torch.device) -> list[str]:
    """The text of each rank, in rank order, on every rank."""
    data = torch.frombuffer(bytearray(text.encode() + b" "), dtype=torch.uint8).to(
        device
    )  # never empty
    longest = int(all_reduce_(torch.tensor(len(data), device=device), "max"))
    padded = data.new_full((1, longest), ord(" "))
    padded[0, : len(data)] = data
    return [bytes(row.tolist()).decode().rstrip(" ") for row in gather(padded)]


@contextmanager
def raise_on_all_ranks(device: torch.device) -> Iterator[None]:
    """Entered by all ranks: where one has an OSError in here, each leaves with one, or the others would wait for it."""
    failed: OSError | None = None
    try:
        yield
    except OSError as error:
        failed = error
    anywhere = all_reduce_(torch.tensor(float(failed is not None), device=device))
    if failed is not None:
        raise failed
    if anywhere:
        raise OSError("another process could not write")


@contextmanager
def report_first_error(device: torch.device, kind: type[UserError] = UserError) -> Iterator[None]:
    """Entered by all ranks: where some have a UserError of this kind in here, all leave with one; of rank 0 it has the text of
    the first of theirs, whosever that is, and of the others none."""
    told = ""
    try:
        yield
    except kind as error:
        told = str(error)
    if found := next(filter(None, gather_texts(told, device)), ""):
        raise kind(found if rank() == 0 else "")


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
