"""Pools of threads and of processes, for which a command that a signal ends does not wait."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from align_train.cluster.signals import (
    OF_THE_RUN,
    end_with_the_run,
    leave_signals_to_the_run,
    name_of,
)
from align_train.errors import UserError

_UNTIL_THE_KERNEL_TELLS = 5.0  # seconds at most


@contextlib.contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads, for which a command that a signal ends does not wait.

    Args:
        count: Threads at most.

    Yields:
        The pool.
    """
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    except KeyboardInterrupt:
        # They may wait for a server or a lock for as long as their patience lasts.
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


@contextlib.contextmanager
def processes(count: int | None, doing: str) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that never outlive the command: an error or a signal kills them.

    Their functions write files whole or not at all (`files.whole`).

    Args:
        count: Processes at most; None: one per core.
        doing: What they do, for the error: `hashing images`.

    Yields:
        The pool.

    Raises:
        UserError: A process died.
    """
    context = _Context()
    pool = ProcessPoolExecutor(
        count, mp_context=context, initializer=_begin_worker, initargs=(os.getpid(),)
    )
    try:
        yield pool
        pool.shutdown()
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        how = _how_one_died(context.workers) if isinstance(error, BrokenProcessPool) else ""
        for worker in context.workers:
            worker.end()

        if isinstance(error, BrokenProcessPool):
            raise UserError(
                f"{doing}: a worker process died{how}, most likely because memory ran out; free "
                f"or ask for more memory, or use fewer cores, and start the command again"
            ) from None
        raise


def _how_one_died(workers: list[_Worker]) -> str:
    """The signal or the status of the worker that died; empty if it cannot be learnt."""
    # The pool sees that a process closed its pipe, which is before the kernel tells how it ended.
    deadline = time.monotonic() + _UNTIL_THE_KERNEL_TELLS
    while time.monotonic() < deadline:
        for end in [worker.exitcode for worker in workers]:
            # The pool itself ends the others by SIGTERM.
            if end and end != -signal.SIGTERM:
                return f" ({name_of(-end)})" if end < 0 else f" (status {end})"
        time.sleep(0.01)
    return ""


class _Worker(SpawnProcess):
    """A process that no signal reaches before it is ready for signals."""

    def start(self) -> None:
        # The tracker unblocks signals when it starts, so that it must run before.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, OF_THE_RUN | {signal.SIGTERM})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def end(self) -> None:
        """Kills the process if it was started, and lives."""
        if self.pid is not None and self.is_alive():
            self.kill()


class _Context(SpawnContext):
    """Starts the workers of one pool, and keeps them.

    Spawned, not forked: the command may have threads, and a fork would inherit their locks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.workers: list[_Worker] = []

    def Process(self, *args: Any, **options: Any) -> _Worker:  # type: ignore[override]
        worker = _Worker(*args, **options)
        self.workers.append(worker)
        return worker


def _begin_worker(run: int) -> None:
    """In a new worker."""
    end_with_the_run(run)
    leave_signals_to_the_run()
    # Those that came meanwhile are ignored now; SIGTERM stays blocked.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OF_THE_RUN)
