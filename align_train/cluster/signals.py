"""Signals in the processes that work for a run: those that make pairs, fetch ahead, or hash.

Ctrl-C and a scheduler's signals reach every process of the group. The run finishes its step before
it saves and ends, and needs its helpers until then.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from threading import Thread

# Only the run answers these.
OF_THE_RUN = frozenset({signal.SIGINT, signal.SIGUSR1, signal.SIGHUP})

_PR_SET_PDEATHSIG = 1  # prctl(2)


def name_of(number: int) -> str:
    """The name of a signal, such as `SIGKILL`; real-time signals have none but their number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def leave_signals_to_the_run() -> None:
    """Makes this process ignore the signals that only the run should answer.

    SIGTERM ends the process only if its parent, the run, has sent it.
    """
    for number in OF_THE_RUN:
        signal.signal(number, signal.SIG_IGN)

    # A handler does not learn who has sent a signal. A blocked signal waits for sigwaitinfo, which
    # does.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait_for_the_run() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    Thread(target=wait_for_the_run, daemon=True).start()


def end_with_the_run(run: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Asks the kernel to signal this process when its parent ends, even by SIGKILL; Linux only.

    Args:
        run: The process id of the parent, which may have ended already.
        by: The signal; one that can be caught lets this process save its work.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(by))
    if os.getppid() != run:
        os._exit(1)
