"""The memory into which a loader's processes write pixels, and of which batches are views.

It is a ring of regions, each as large as one rank's batch. The loader's process makes it before it
forks the workers. A worker writes the pixels of its pairs to their place, and returns only the
small rest. So neither file descriptors nor copies grow with the batch. The memory is anonymous:
nothing of it lies in /dev/shm, which has only 64 MB in a Docker container by default.

Price: regions x pairs x 3 x side² bytes of host memory for each rank; a device batch of 2,048
images of 289 x 289 pixels takes 0.5 GB a region, and the loader has three (more only if workers
have more pieces in hand than a step has).
Since its pages are used again and again, a pair costs less than in memory of its own: 1.06 ms of
CPU time, in place of 1.48 (drawn images at 289 pixels, `benchmarks.loader.ours`, one worker).

On a GPU the run asks for *page-locked* memory: only from there does a copy leave the host free to
launch kernels meanwhile.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import weakref
from collections.abc import Callable
from math import prod
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from align_train.errors import UserError
from align_train.stream.decode import Pixels

_GIGA = 1e9


class _Cuda(Protocol):
    """Two functions of CUDA's runtime. They return its status: 0 is success."""

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int: ...

    def cudaHostUnregister(self, address: int) -> int: ...


class Arena:
    """Regions of shared memory. They live as long as any view of them.

    Attributes:
        images: uint8 `[regions, pairs, height, width, 3]`.
    """

    def __init__(self, *, regions: int, shape: tuple[int, int, int, int]) -> None:
        """Reserves the memory. The system gives its pages when they are written or page-locked.

        Args:
            regions: The regions of the ring.
            shape: `(pairs, height, width, 3)` of a region.

        Raises:
            UserError: The system does not give that much.
        """
        size = regions * prod(shape)
        try:
            # Shared and anonymous: processes that are forked from now on see the same pages.
            memory = mmap.mmap(-1, size)
        except (OSError, OverflowError):
            raise UserError(
                f"{regions} batches of {shape[0]:,} images of {shape[1]} pixels need "
                f"{size / _GIGA:,.1f} GB of host memory, which the system refuses; lower "
                f"data.workers, take more devices, or a smaller batch_size"
            ) from None

        self._bytes = np.frombuffer(memory, dtype=np.uint8)
        self.images: Pixels = self._bytes.reshape(regions, *shape)

    def region(self, finished_steps: int) -> Pixels:
        """Returns the region of a step: uint8 `[pairs, height, width, 3]`.

        Args:
            finished_steps: Steps before this one.
        """
        region: Pixels = self.images[finished_steps % len(self.images)]
        return region

    def page_lock(self) -> bool:
        """Page-locks the memory, so that copies to a GPU do not block; False if CUDA refuses.

        To be called after the workers were forked: a driver may keep locked pages from later ones.
        """
        return _page_lock(self._bytes)


def _page_lock(memory: NDArray[np.uint8]) -> bool:
    """Registers memory with CUDA until its last view goes."""
    address = memory.ctypes.data
    # torch has a public function for memory of its own only.
    status = int(_cuda().cudaHostRegister(address, memory.nbytes, 0))
    if status != 0:
        # CUDA keeps the error for the next call that asks, which would be a kernel of the towers.
        # This one asks, and clears it.
        with contextlib.suppress(RuntimeError):
            torch.ones(1, device="cuda")
        return False

    # Views keep the array alive, and the array the memory: nobody reads pages that are given back.
    # At the end of the process there is nothing to do, and CUDA may be gone.
    weakref.finalize(memory, _unlock, address, os.getpid()).atexit = False
    return True


def _unlock(address: int, owner: int) -> None:
    # A worker that was forked later has this call too, and must not touch CUDA.
    if os.getpid() != owner:
        return
    # A copy may still be under way.
    torch.cuda.synchronize()
    _cuda().cudaHostUnregister(address)


def _cuda() -> _Cuda:
    runtime: Callable[[], _Cuda] = torch.cuda.cudart  # torch has no types for it
    return runtime()
