"""The measurement that every loader of `benchmarks.loader` goes through.

It takes the time, and the CPU time and the memory of the loader's process and workers together.
Memory is PSS without mapped files, see `proc.py`. A thread looks at it twice a second; a look costs
a few milliseconds. Standard library only, since each loader is measured inside its own
environment.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn, Protocol

from benchmarks.shared.proc import cpu_seconds, memory_now

_LOOK_EVERY = 0.5  # seconds


class Array(Protocol):
    """The part of a torch tensor that is needed here."""

    @property
    def shape(self) -> Sequence[int]: ...

    def numel(self) -> int: ...

    def element_size(self) -> int: ...


Arrays = Sequence[Array]  # of one batch; the images come first


class PeakMemory:
    """The highest PSS of the process tree between `with` and its end, in bytes."""

    def __init__(self) -> None:
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.peak = max(self.peak, memory_now())

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_EVERY):
            self.peak = max(self.peak, memory_now())


def measure(
    make: Callable[[], Iterator[Arrays]],
    *,
    workers: int,
    seconds: float,
    side: int,
) -> dict[str, float]:
    """Runs a loader that never ends.

    The clock starts when every worker has given its first batch. It stops after whole rounds of the
    workers: the batches under way at its start and at its end are then alike.

    Args:
        make: Makes the loader.
        workers: The number of its workers.
        seconds: The least time that is measured.
        side: The side of an image in pixels, which is checked on the first batch.

    Returns:
        Figures by name: `pairs_per_second`, `pairs_per_cpu_second`, `first_batch_seconds`,
        `bytes_per_pair` and `peak_bytes`.

    Raises:
        ValueError: The first batch has other sizes.
    """
    with PeakMemory() as memory:
        asked = time.perf_counter()
        batches = make()
        _check(next(batches), side)
        first_batch = time.perf_counter() - asked
        for _ in range(workers - 1):
            next(batches)

        pairs = 0
        moved = 0
        started = time.perf_counter()
        cpu_started = cpu_seconds()
        while time.perf_counter() - started < seconds:
            for _ in range(workers):
                arrays = next(batches)
                pairs += arrays[0].shape[0]
                moved += sum(array.numel() * array.element_size() for array in arrays)
        elapsed = time.perf_counter() - started
        cpu = cpu_seconds() - cpu_started

    return {
        "pairs_per_second": pairs / elapsed,
        "pairs_per_cpu_second": pairs / cpu,
        "first_batch_seconds": first_batch,
        "bytes_per_pair": moved / pairs,
        "peak_bytes": memory.peak,
    }


def _check(arrays: Arrays, side: int) -> None:
    shape = tuple(arrays[0].shape)
    square = len(shape) == 4 and shape.count(side) == 2
    counts = {array.shape[0] for array in arrays}
    if square and len(counts) == 1:
        return

    found = [tuple(array.shape) for array in arrays]
    raise ValueError(f"expected images of {side} x {side} and as many texts, found {found}")


def report(result: Mapping[str, object]) -> NoReturn:
    """Prints one JSON line for the parent process and ends this one, its workers first."""
    print(json.dumps(result), flush=True)

    # Left alone, workers would end only when they notice that their parent has gone.
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()
    sys.stdout.flush()
    os._exit(0)
