"""Memory that runs out: how libraries say it, and how a run says it to its user."""

from __future__ import annotations

import gc

import torch

# How libraries say that memory is used up. Only the words tell.
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch's says that memory, of the device or of the host, is used up."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def free_memory() -> None:
    """Gives back what a failed pass has left; call it outside of `except`, which keeps frames."""
    gc.collect()
    torch.cuda.empty_cache()  # nothing, unless CUDA is in use


def out_of_memory_message(chunk_size: int, where: str = "") -> str:
    """The line for a run that has not enough memory for the smallest chunk.

    Args:
        chunk_size: Pairs of the smallest chunk.
        where: The step, if one was made; empty: at the start.
    """
    return (
        f"{where}out of memory with the smallest chunk, chunk_size={chunk_size}; lower its needs "
        f"with checkpoint_blocks=true, and recompute=true if that is off, which change no number; "
        f"or take more devices, larger ones, or a smaller batch_size"
    )
