from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from align_train.training.batch_norm import without_statistics


def checkpoint_block(block: nn.Module) -> None:
    """Activation checkpointing of one encoder block: in training only its inputs are kept, and it is run again backward."""
    forward = block.forward

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        contexts = lambda: (nullcontext(), without_statistics(block))  # noqa: E731
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    block.forward = checkpointed


def forgetful(
    forward: Callable[[], Any],
    first: AbstractContextManager[Any],
    again: AbstractContextManager[Any],
) -> Any:
    """`forward()` within `first`, of which autograd keeps its nodes and no tensor: when backward wants one, `forward` runs
    again, within `again`, and what it saves is kept until it is used.

    What `torch.utils.checkpoint` does, without its objects for every tensor saved: half a megabyte for each chunk of a model
    whose activations take a hundred, and between them the heap is left in pieces.
    """
    expected = 0
    made_again: list[Tensor | None] = []

    def number(_: Tensor) -> int:
        nonlocal expected
        expected += 1
        return expected - 1

    def keep(tensor: Tensor) -> None:
        made_again.append(tensor.detach())

    def recomputed(place: int) -> Tensor:
        if not made_again:
            with again, torch.enable_grad(), saved_tensors_hooks(keep, _no_second_graph):
                forward()
            if len(made_again) != expected:
                raise RuntimeError(
                    f"a chunk's second pass saved {len(made_again)} tensors, its first {expected}"
                )
        tensor, made_again[place] = made_again[place], None
        assert tensor is not None
        return tensor

    with first, saved_tensors_hooks(number, recomputed):
        return forward()


def _no_second_graph(_: None) -> Tensor:
    raise AssertionError("nothing goes backward through a second pass")
