"""Models and ranks that take no memory: the real code runs on tensors that have only a shape.

Fake tensors (torch's `FakeTensorMode`) say that they lie on a CPU. So code that asks for a device
takes the same branches as in a run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

Model = TypeVar("Model", bound=nn.Module)


def fake_tensors() -> FakeTensorMode:
    """A mode in which tensors have no values and take no memory."""
    # Some layers keep constants of a few numbers outside of their buffers.
    return FakeTensorMode(allow_non_fake_inputs=True)


def fake_copy(model: Model, mode: FakeTensorMode) -> Model:
    """Copies a model without its memory.

    Args:
        model: On any device, also `meta`.
        mode: The mode that the copy's tensors belong to.

    Returns:
        The copy, on a CPU that does not exist.
    """
    # `deepcopy` looks here, by identity, for copies that are already made.
    copies: dict[int, object] = {}
    for parameter in model.parameters():
        fake = nn.Parameter(_fake(parameter, mode), requires_grad=parameter.requires_grad)
        copies[id(parameter)] = fake
    for buffer in model.buffers():
        copies[id(buffer)] = _fake(buffer, mode)
    return copy.deepcopy(model, copies)


def _fake(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    with mode:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")


@contextmanager
def pretended_ranks(world: int) -> Iterator[None]:
    """In here this process is rank 0 of a group whose other ranks do not exist.

    Collectives return at once, with tensors of the right shapes.

    Args:
        world: How many ranks there are.

    Raises:
        RuntimeError: This process belongs to a real group.
    """
    if dist.is_initialized():
        raise RuntimeError("ranks can be pretended only before the real ones have met")
    if world == 1:
        yield
        return

    dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
