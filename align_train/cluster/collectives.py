"""Collectives over the process group.

Every collective is the identity if no process group exists, so that one process needs no second
code path. Collective means: all ranks must call it, in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from align_train.cluster.interruption import interrupted
from align_train.errors import UserError

_AT_A_TIME = 65_536  # bytes of each rank's text, so 64 MiB of 1,024 ranks
_TO_SETTLE = 0.1  # seconds in which the threads of a collective have ended

_alone = False
_begun = 0


def world_size() -> int:
    """How many ranks the process group has; 1 without one."""
    return dist.get_world_size() if _in_group() else 1


def rank() -> int:
    """This process in the process group, from 0; 0 without one."""
    return dist.get_rank() if _in_group() else 0


def begun() -> int:
    """How many collectives of this module this rank has begun: all ranks begin the same ones."""
    return _begun


def _begin() -> None:
    # For the watchdog: the rank that keeps the others waiting has begun fewer than they have.
    global _begun
    _begun += 1


def _in_group() -> bool:
    return not _alone and dist.is_available() and dist.is_initialized()


def settle_before_fork() -> None:
    """Waits for the threads that have completed the last collective.

    Python 3.11 hangs forever in a child that was forked while another thread made or ended its
    state, since `HEAD_LOCK` is held then. Seen once in some hundred starts.
    """
    if world_size() > 1:
        time.sleep(_TO_SETTLE)


@contextmanager
def alone() -> Iterator[None]:
    """In here this process acts as if it were the only one."""
    global _alone
    before = _alone
    _alone = True
    try:
        yield
    finally:
        _alone = before


def gather(local: Tensor) -> Tensor:
    """Gathers equal numbers of rows. Collective; no gradient.

    Args:
        local: `[n, …]`, the same n on every rank.

    Returns:
        `[world * n, …]` in rank order, on every rank.
    """
    if world_size() == 1:
        return local

    _begin()
    # Into one tensor: a list of one a rank would be copied once more.
    gathered = local.new_empty((world_size() * local.shape[0], *local.shape[1:]))
    dist.all_gather_into_tensor(gathered, local.contiguous())
    return gathered


def gather_rows(local: Tensor, total: int) -> Tensor:
    """Gathers a table of which each rank has every world-th row. Collective; no gradient.

    Args:
        local: The rows `rank::world` of the table. Their numbers may differ by one between ranks:
            the shorter ones are padded on the way.
        total: How many rows the table has.

    Returns:
        The table `[total, …]`, in order, on every rank.
    """
    world = world_size()
    if world == 1:
        return local

    longest = -(-total // world)
    padded = local.new_zeros((longest, *local.shape[1:]))
    padded[: local.shape[0]] = local
    gathered = gather(padded)

    by_rank = gathered.view(world, longest, *local.shape[1:])
    in_order = by_rank.transpose(0, 1).reshape(world * longest, *local.shape[1:])
    return in_order[:total]


def gather_texts(text: str, device: torch.device) -> list[str]:
    """Gathers one text of each rank. Collective.

    Args:
        text: This rank's.
        device: A device of the process group's backend.

    Returns:
        The texts in rank order, on every rank.
    """
    data = text.encode()
    lengths = gather(torch.tensor([len(data)], device=device)).tolist()
    gathered = [bytearray() for _ in lengths]

    # Part by part: one rank's long text must not take its memory times all ranks.
    for start in range(0, max(lengths), _AT_A_TIME):
        size = min(_AT_A_TIME, max(lengths) - start)
        # Collectives want equal shapes on all ranks.
        part = bytearray(data[start : start + size].ljust(size))
        rows = gather(torch.frombuffer(part, dtype=torch.uint8)[None].to(device)).cpu()
        for whole, row, length in zip(gathered, rows.numpy(), lengths, strict=True):
            whole += row[: max(length - start, 0)].tobytes()

    return [whole.decode() for whole in gathered]


def scatter_sum(parts: Tensor) -> Tensor:
    """Sums over ranks, and leaves each rank its own part of the sum. Collective; no gradient.

    Args:
        parts: `[world * n, …]`, a part for each rank, in rank order.

    Returns:
        `[n, …]`: the sum over ranks of this rank's part.
    """
    if world_size() == 1:
        return parts

    _begin()
    local = parts.new_empty((parts.shape[0] // world_size(), *parts.shape[1:]))
    dist.reduce_scatter_tensor(local, parts.contiguous())
    return local


def all_reduce_(value: Tensor, operation: Literal["sum", "max"] = "sum") -> Tensor:
    """Replaces a tensor by its sum or largest over ranks, in place. Collective; no gradient.

    Args:
        value: The same shape on every rank.
        operation: `sum` or `max`, element by element.

    Returns:
        `value` itself.
    """
    if world_size() > 1:
        _begin()
        kinds = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}
        dist.all_reduce(value, kinds[operation])
    return value


def on_device(values: Sequence[float], device: torch.device) -> Tensor:
    """Numbers as a float64 tensor on a device, without waiting for it."""
    host = torch.tensor(values, dtype=torch.float64)
    if device.type == "cuda":
        # From ordinary memory the copy would wait for all that the GPU still has to do.
        return host.pin_memory().to(device, non_blocking=True)
    return host


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum over ranks as a new tensor, on every rank. Collective; no gradient."""
    return all_reduce_(value.detach().clone())


@contextmanager
def raise_on_all_ranks(device: torch.device) -> Iterator[None]:
    """If any rank raises OSError inside, every rank does, so that none waits forever. Collective.

    Args:
        device: A device of the process group's backend.

    Yields:
        Nothing.

    Raises:
        OSError: This rank's own, or one that says that another process failed.
    """
    failed: OSError | None = None
    try:
        yield
    except OSError as error:
        failed = error

    # Reached by every rank, failed or not: this is where they wait for each other.
    failures = all_reduce_(torch.tensor(float(failed is not None), device=device))
    if failed is not None:
        raise failed
    if failures:
        raise OSError("another process could not write")


@contextmanager
def report_first_error(device: torch.device, kind: type[UserError] = UserError) -> Iterator[None]:
    """If some ranks raise an error of this kind inside, every rank does. Collective.

    Args:
        device: A device of the process group's backend.
        kind: The kind of error; others pass.

    Yields:
        Nothing.

    Raises:
        UserError: Of that kind. Rank 0 has the text of the first rank that failed, the others have
            none: so one line is printed, whichever rank it was.
    """
    message = ""
    try:
        yield
    except kind as error:
        message = str(error)

    messages = [text for text in gather_texts(message, device) if text]
    if messages:
        raise kind(messages[0] if rank() == 0 else "")


def stop_together(number: int, device: torch.device) -> None:
    """If a signal has come to any rank, every rank stops here, so that none waits. Collective.

    Args:
        number: The signal that has come to this rank; 0: none.
        device: A device of the process group's backend.

    Raises:
        Interrupted: On all ranks alike.
    """
    agreed = int(all_reduce_(torch.tensor(number, device=device), "max"))
    if agreed:
        raise interrupted(agreed)
