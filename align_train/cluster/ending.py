"""How a process ends: with one line, in bounded time, at once if other ranks may wait."""

from __future__ import annotations

import atexit
import os
import sys
import time
from threading import Event, Thread
from typing import NoReturn

from align_train.errors import printable

# Seconds that Python's clean-up may take, and the last line.
_TO_END = 30.0
_TO_PRINT = 2.0

_SIGNAL = 128  # a status above it is that of a signal

_said = False


def say(message: str) -> None:
    """Prints why the process ends: one line on stderr.

    Args:
        message: The line; empty: another process prints one.
    """
    global _said
    _said = True
    if message:
        # Names of files may be any bytes.
        print(f"align_train: {printable(message)}", file=sys.stderr, flush=True)


def end(status: int) -> NoReturn:
    """Exits. Whoever calls it has said why.

    Python's clean-up would end the process group. NCCL waits there for the other ranks, and they
    wait for this one in a collective. So with other ranks there is no clean-up.

    Args:
        status: The exit status.
    """
    if has_peers():
        end_now(status)

    # Clean-up waits for child processes, which may hang in a file system.
    begun = Event()
    Thread(target=_end_clean_up, args=(status, begun), daemon=True).start()
    if status > _SIGNAL:
        begun.set()
        # All of Python's clean-up but for threads, which may wait for a server, and for taking
        # modules down, which takes seconds.
        atexit._run_exitfuncs()
        end_now(status)
    atexit.register(begun.set)
    sys.exit(status)


def end_now(status: int, message: str = "") -> NoReturn:
    """Exits without clean-up, from any thread.

    Args:
        status: The exit status.
        message: The line that says why, unless the main thread has said it; empty: another process
            prints one.
    """

    def flush() -> None:
        if not _said:
            say(message)
        sys.stdout.flush()
        sys.stderr.flush()

    # The main thread may hold the streams, and hang in a pipe that nobody reads.
    thread = Thread(target=flush, daemon=True)
    thread.start()
    thread.join(_TO_PRINT)
    os._exit(status)


def _end_clean_up(status: int, begun: Event) -> None:
    begun.wait()
    time.sleep(_TO_END)
    os._exit(status)


def has_peers() -> bool:
    """Whether this process is one of several in a process group."""
    # Commands with wrong settings end before torch is imported.
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return False
    return bool(distributed.get_world_size() > 1)
