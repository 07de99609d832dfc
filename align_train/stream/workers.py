"""Processes that make items, and the wait for an item: bounded, and cut short by a signal.

All loaders wait here: training, evaluation and `embed`. A worker may fail in ways that its data set
does not see:

- *killed*, by the system for its memory or by anyone: torch notices;
- *stopped* (SIGSTOP): found by its state in /proc while the run waits for it;
- *its message is lost*: it cannot be packed or sent. The worker ends, and torch notices that;
- *not started*: there are too few processes, open files, or semaphores in /dev/shm.

A worker that lives and gets nowhere, e.g. in a file system that hangs, is for the watchdog.

Price: 2 µs an item. Each process takes three semaphores of 4 kB in /dev/shm, which nothing else of
ours uses, and four open files. No socket is made, so TMPDIR may be of any length.
"""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from align_train.cluster.collectives import settle_before_fork
from align_train.cluster.interruption import at_once
from align_train.cluster.signals import end_with_the_run, leave_signals_to_the_run, name_of
from align_train.errors import Lost, UserError

_LOOK_EVERY = 1  # seconds between looks at the workers, while the run waits
_STOPPED_LOOKS = 20  # in a row, after which a stopped worker ends the run

# DataLoader's: of each queue and of an event.
_SEMAPHORES_OF_A_QUEUE = 3
_SEMAPHORES_OF_AN_EVENT = 5

_AGAIN = "the same command goes on from what is saved"
_FIXES = {
    errno.ENOSPC: (
        "/dev/shm is full; start the container with --shm-size=1g or --ipc=host, free /dev/shm, "
        "or lower {setting}"
    ),
    errno.EMFILE: "the limit of open files is {limit}; raise it (ulimit -n), or lower {setting}",
    errno.EAGAIN: "the limit of processes is reached; raise it (ulimit -u), or lower {setting}",
    errno.ENOMEM: "there is not enough memory; lower {setting}",
}

T = TypeVar("T")


class Workers(Generic[T]):
    """The items of a data set, in order, from worker processes or from this one."""

    def __init__(
        self,
        dataset: Dataset[object],
        *,
        workers: int,
        sampler: Iterable[object] | None = None,
        batch_size: int | None,
        collate: Callable[[Any], object],
        prefetch: int = 2,
        setting: str,
    ) -> None:
        """Starts no process yet.

        Args:
            dataset: Makes an item by its place.
            workers: Processes; 0: this process makes the items.
            sampler: The places, in order; None: all of the data set.
            batch_size: Places of an item; None: one, as the data set makes it.
            collate: Makes an item of what the data set gives for its places.
            prefetch: Items that each process makes ahead.
            setting: The setting of `workers`, for messages.
        """
        self.workers = workers
        self.setting = setting
        self._stopped_looks = 0
        self._items: Iterator[T] | None = None
        self._loader: DataLoader[object] = DataLoader(
            dataset,
            sampler=sampler,
            batch_size=batch_size,
            collate_fn=collate,
            num_workers=workers,
            # DataLoader refuses these without workers.
            prefetch_factor=prefetch if workers else None,
            timeout=_LOOK_EVERY if workers else 0,
            # A process that is started in another way would not see memory that is shared, nor the
            # data set as it is.
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=_begin_worker,
        )

    def start(self) -> None:
        """Starts the processes.

        Raises:
            UserError: The system does not give what they need.
        """
        if not self.workers:
            self._items = iter(self._loader)
            return

        settle_before_fork()
        failed: OSError | None = None
        with _half_made_loader_is_silent():
            try:
                _try_semaphores(self.workers)
                self._items = iter(self._loader)
            except OSError as error:
                # Without its trace, which holds the loader that is half made.
                failed = OSError(error.errno, error.strerror)
            if failed is not None:
                gc.collect()
        if failed is not None:
            raise self._not_started(failed)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._items is None:
            self.start()
        assert self._items is not None
        with at_once():
            while True:
                try:
                    item = next(self._items)
                except StopIteration:
                    raise
                except Exception as error:
                    self._look_after(error)
                    continue
                self._stopped_looks = 0
                return item

    def close(self) -> None:
        """Ends the processes. Without it they would end with the last reference to them."""
        items = self._items
        self._items = None
        if isinstance(items, _MultiProcessingDataLoaderIter):
            # One that has hardly begun is killed by the signal, which torch would take for a crash.
            if items._worker_pids_set:
                torch._C._remove_worker_pids(id(items))
                items._worker_pids_set = False
            for pid in _pids_of(items):
                # They have nothing to lose. One that hangs, or is stopped, would keep us waiting.
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGCONT)
            # The trace of a worker's error may hold the iterator in a circle: Python's collector
            # then takes its queues first, and each worker costs 5 s.
            items._shutdown_workers()

    def _look_after(self, error: Exception) -> None:
        """Returns if the wait may go on.

        Raises:
            Lost: A worker has ended or is stopped, or memory has run out.
            Exception: Any other error of a worker, as it is.
        """
        if _is_out_of_memory(error):
            who = "a loader process" if self.workers else "this process"
            less = f"lower {self.setting}, or " if self.workers else ""
            raise Lost(
                f"{who} ran out of host memory while it read images; {less}give the job more "
                f"memory; {_AGAIN}"
            ) from None
        for worker in _workers_of(self._items):
            if worker.exitcode:
                raise lost_worker(worker.pid, end_in_words(worker.exitcode)) from None
        if not str(error).startswith("DataLoader timed out"):
            raise error

        # Only looks in a row count: a scheduler may stop and continue all processes of a job.
        stopped = [pid for pid in _pids_of(self._items) if _is_stopped(pid)]
        self._stopped_looks = self._stopped_looks + 1 if stopped else 0
        if self._stopped_looks >= _STOPPED_LOOKS:
            raise Lost(
                f"loader process {stopped[0]} has been stopped for "
                f"{_LOOK_EVERY * _STOPPED_LOOKS} s (SIGSTOP) while the run waits for it; do not "
                f"stop single processes of a run, or let it go on in time: "
                f"kill -CONT {stopped[0]}; {_AGAIN}"
            ) from None

    def _not_started(self, error: OSError) -> UserError:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        fix = _FIXES.get(error.errno or 0, "lower {setting}").format(
            setting=self.setting, limit=limit
        )
        return UserError(
            f"{self.setting}={self.workers}: the loader processes cannot be started "
            f"({error.strerror}): {fix}"
        )


def lost_worker(pid: object, how: str) -> Lost:
    """The error for a worker that has ended by itself.

    Args:
        pid: Its process number.
        how: Its end, in words.
    """
    fix = "if that was for memory, lower data.workers (or workers), or give the job more memory"
    if "Bus error" in how or "SIGBUS" in how:
        fix = "/dev/shm is too small: start the container with --ipc=host or --shm-size=64g"
    return Lost(f"loader process {pid} ended by itself ({how}); {fix}; {_AGAIN}")


def end_in_words(status: int) -> str:
    """Spells how a worker ended.

    Args:
        status: Its exit status; minus the signal that killed it.
    """
    if status < 0:
        return f"killed by {name_of(-status)}"
    # `_end_worker` makes it of an error.
    return os.strerror(status) if status > 1 else f"status {status}"


def _begin_worker(worker: int) -> None:
    """In a new worker."""
    run = multiprocessing.parent_process()
    assert run is not None and run.pid is not None
    # torch looks for the run only between items: a worker that hangs in one would stay for ever.
    end_with_the_run(run.pid)
    leave_signals_to_the_run()
    # A thread of the queue packs and sends items. An item that it drops would be waited for.
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _end_worker(error: Exception, item: object) -> None:
    os._exit((isinstance(error, OSError) and error.errno) or errno.ENOMEM)


def _workers_of(items: object) -> Sequence[BaseProcess]:
    return items._workers if isinstance(items, _MultiProcessingDataLoaderIter) else []


def _pids_of(items: object) -> list[int]:
    return [worker.pid for worker in _workers_of(items) if worker.is_alive() and worker.pid]


def _is_stopped(pid: int) -> bool:
    """Whether a process is stopped; False on systems without /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    # The name in brackets may hold anything.
    return stat.rpartition(")")[2].split()[0] in "Tt"


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory has run out, in this process or in a worker, whose error comes as a text."""
    if isinstance(error, MemoryError):
        return True
    text = str(error)
    return any(words in text for words in ("MemoryError", "annot allocate memory", "an't allocate"))


def _try_semaphores(workers: int) -> None:
    """Raises OSError if /dev/shm has no room for the semaphores of DataLoader's queues.

    DataLoader itself would fail after it has started some of the workers.
    """
    context = multiprocessing.get_context("fork")
    count = (workers + 1) * _SEMAPHORES_OF_A_QUEUE + _SEMAPHORES_OF_AN_EVENT
    tried = [context.Semaphore() for _ in range(count)]
    del tried


@contextmanager
def _half_made_loader_is_silent() -> Iterator[None]:
    """If DataLoader cannot start all of its workers, it fails once more in `__del__`, loudly."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook
