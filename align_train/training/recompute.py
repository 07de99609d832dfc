"""Computing a part of the model twice, in place of keeping its activations until backward.

Of a block, when `checkpoint_blocks` is set; of a whole chunk, for gradient caching. Price: one more
forward pass of that part.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from align_train.training.batch_norm import without_statistics

Result = TypeVar("Result")


def checkpoint_block(block: nn.Module) -> None:
    """Makes a block keep only its inputs in training, and run again in the backward pass.

    Args:
        block: Changed in place; the names of its parameters stay.
    """
    forward = block.forward

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), without_statistics(block)

    def checkpointed(*args: Any, **kwargs: Any) -> object:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    block.forward = checkpointed


def recompute_in_backward(
    forward: Callable[[], Result],
    *,
    first: AbstractContextManager[None],
    again: AbstractContextManager[None],
) -> Result:
    """Calls a function whose saved tensors autograd makes again when backward needs the first one.

    `torch.utils.checkpoint` does the same, but keeps an object for every saved tensor: half a
    megabyte for each chunk of a model whose activations take a hundred, and they leave the heap in
    pieces.

    Args:
        forward: The function; both calls must save the same tensors in the same order.
        first: Entered around the call now.
        again: Entered around the call in the backward pass.

    Returns:
        The result of the call now.

    Raises:
        RuntimeError: In the backward pass, if the calls saved different numbers of tensors.
    """
    expected = 0
    made_again: list[Tensor | None] = []

    def count(_: Tensor) -> int:
        nonlocal expected
        expected += 1
        return expected - 1

    def keep(tensor: Tensor) -> None:
        # Detached, or the second graph would live as long as its tensors.
        made_again.append(tensor.detach())

    def recomputed(index: int) -> Tensor:
        if not made_again:
            with again, torch.enable_grad(), saved_tensors_hooks(keep, _no_second_graph):
                forward()
            if len(made_again) != expected:
                raise RuntimeError(
                    f"a chunk's second pass saved {len(made_again)} tensors, its first {expected}"
                )

        # Backward asks for each tensor once: its memory is free after that.
        tensor = made_again[index]
        made_again[index] = None
        assert tensor is not None
        return tensor

    with first, saved_tensors_hooks(count, recomputed):
        return forward()


def _no_second_graph(_: None) -> Tensor:
    raise AssertionError("nothing goes backward through a second pass")
