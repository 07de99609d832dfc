"""Signals in a test's own process, which runs other tests afterwards."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from align_train.cluster.interruption import catching


@contextmanager
def catching_in_a_test() -> Iterator[None]:
    """Wraps a command as `catching` does, and gives all signals their effect back.

    A command that a signal has ended ignores its repetitions. Later tests, and what they start,
    must not.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        with catching():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
