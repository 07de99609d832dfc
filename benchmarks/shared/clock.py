"""What every loader of `benchmarks.loader` is measured by: a clock, the CPU time and the memory of its processes.

Standard library only, since each loader is measured inside its own environment. Linux only: it reads /proc.
Memory is PSS (a page shared by n processes counts 1/n for each), summed over the process and its workers, which share what
they were forked with; looked at twice a second, at a few milliseconds a look. Files mapped into memory, which are the
libraries' code, are left out: their pages are shared with whatever else runs on the machine, and that would show.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

_LOOK_EVERY = 0.5  # seconds


_TICKS = os.sysconf("SC_CLK_TCK")


class Array(Protocol):
    """As much of a torch tensor as is asked here."""

    @property
    def shape(self) -> Sequence[int]: ...

    def numel(self) -> int: ...

    def element_size(self) -> int: ...


Arrays = Sequence[Array]  # of one batch; the pictures come first


def process_tree() -> list[int]:
    """This process, its children, their children."""
    found = [os.getpid()]
    for pid in found:
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found.extend(map(int, path.read_text().split()))
            except OSError:  # it has ended meanwhile
                continue
    return found


def memory_now() -> int:
    """PSS of the process tree in bytes, but for mapped files."""
    total = 0
    for pid in process_tree():
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += (
            sum(
                int(line.split()[1])
                for line in rollup.splitlines()
                if line.startswith(("Pss_Anon:", "Pss_Shmem:"))
            )
            * 1024
        )
    return total


def cpu_seconds() -> float:
    """User and system time of the process tree so far, all threads."""
    ticks = 0
    for pid in process_tree():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


class PeakMemory:
    """The highest PSS seen between `with` and its end."""

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
    make: Callable[[], Iterator[Arrays]], *, workers: int, seconds: float, side: int
) -> dict[str, float]:
    """Runs a loader that never ends. The clock starts when every worker has given its first batch, and stops after whole
    rounds of the workers, so that what is begun at its start and at its end is alike."""
    with PeakMemory() as memory:
        asked = time.perf_counter()
        batches = make()
        _check(next(batches), side)
        first = time.perf_counter() - asked
        for _ in range(workers - 1):
            next(batches)
        pairs = moved = 0
        started, cpu = time.perf_counter(), cpu_seconds()
        while time.perf_counter() - started < seconds:
            for _ in range(workers):
                arrays = next(batches)
                pairs += arrays[0].shape[0]
                moved += sum(array.numel() * array.element_size() for array in arrays)
        elapsed, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    return {
        "pairs_per_second": pairs / elapsed,
        "pairs_per_cpu_second": pairs / cpu,
        "first_batch_seconds": first,
        "bytes_per_pair": moved / pairs,
        "peak_bytes": memory.peak,
    }


def _check(arrays: Arrays, side: int) -> None:
    shape = tuple(arrays[0].shape)
    if len(shape) != 4 or shape.count(side) != 2 or len({array.shape[0] for array in arrays}) != 1:
        raise ValueError(
            f"expected pictures of {side} x {side} and as many texts, found {[tuple(a.shape) for a in arrays]}"
        )


def report(result: dict[str, Any]) -> NoReturn:
    """One line for whoever started this process; then its workers end at once, not when they notice."""
    print(json.dumps(result), flush=True)
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()
    sys.stdout.flush()
    os._exit(0)
