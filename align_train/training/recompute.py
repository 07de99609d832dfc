"""Computing a part of the model twice, in place of keeping its activations until backward.

`checkpoint_blocks` does this for each block, gradient caching for a whole chunk. Price: one more
forward pass of that part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")


def checkpoint_block(
    block: nn.Module, second_pass: Callable[[nn.Module], AbstractContextManager[None]]
) -> None:
    """Makes a block keep only its inputs in training, and run again in the backward pass.

    Args:
        block: Changed in place; the names of its parameters stay.
        second_pass: Called in the first pass; gives what is entered around the second one.
    """
    forward = block.forward

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), second_pass(block)

    def checkpointed(*args: Any, **kwargs: Any) -> object:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        # No generator is kept: blocks draw by pair.
        return checkpoint(
            forward,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=contexts,
            **kwargs,
        )

    block.forward = checkpointed


def trained_blocks(blocks: Iterable[nn.Module]) -> list[nn.Module]:
    """The blocks that have a backward pass.

    Args:
        blocks: A model's.
    """
    return [block for block in blocks if is_trained(block)]


def is_trained(part: nn.Module) -> bool:
    """Whether a part of a model has a parameter that is trained."""
    return any(parameter.requires_grad for parameter in part.parameters())


def recompute_in_backward(forward: Callable[[], Result]) -> Result:
    """Calls a function, and calls it again in the backward pass to get its saved tensors.

    `torch.utils.checkpoint` does the same, but keeps an object for every saved tensor: half a
    megabyte for each chunk of a model whose activations take a hundred, which
    fragments the heap.

    Args:
        forward: The function; both calls must save the same tensors in the same order.

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
            with torch.enable_grad(), saved_tensors_hooks(keep, _no_second_graph):
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

    with saved_tensors_hooks(count, recomputed):
        return forward()


def _no_second_graph(_: None) -> Tensor:
    raise AssertionError("nothing goes backward through a second pass")
