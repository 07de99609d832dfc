"""Signals that end a command: at once, or at the place where all ranks can save together.

Schedulers send SIGTERM before they kill. `launch/train.sbatch` asks Slurm for SIGUSR1 before the
time limit. SIGINT is Ctrl-C. SIGHUP comes when the terminal closes, and has no effect under
`nohup`.

As a rule the first of them raises `Interrupted` in the main thread, whatever that waits for: data,
a lock, a download. From a run's first step to its last a signal is only noted (`defer`): the ranks
agree on the step that they save. Only waits for data are cut short (`at_once`).

A main thread that is in a call of C (a collective, a backward pass) runs no handler until the call
returns. So a thread of ours learns of the signal as well, by Python's wakeup file. The watchdog
tells the other ranks of it. If the signal is not deferred, and the main thread does not come out of
its call in time, the thread ends the process.

A second SIGTERM or SIGUSR1 changes nothing: schedulers repeat them, and kill if they mean it. A
second Ctrl-C raises at once in any case.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from align_train.cluster import launcher
from align_train.cluster.ending import end_now
from align_train.errors import GOES_ON, Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)

# Seconds that a main thread has to notice a signal, and then to clean up.
_TO_NOTICE = 5.0
_TO_END = 30.0


class _State:
    """What this process knows of its signals; handlers run in the main thread alone."""

    def __init__(self) -> None:
        self.received = 0
        self.ctrl_c = 0  # how often
        self.deferred = False
        self.waits = 0  # `at_once`, one in the other
        self.raised = False
        self.over = threading.Event()
        self.left = GOES_ON


_state = _State()


@contextlib.contextmanager
def catching() -> Iterator[None]:
    """Wraps a command: in here a signal raises `Interrupted`, unless it is deferred."""
    global _state
    # Only the main thread may set handlers; elsewhere signals keep their usual effect.
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is _handle:  # wrapped already
        yield
        return

    _state = state = _State()
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = {}
    for number in _SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, _handle)
    file_before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(read, state), daemon=True).start()
    try:
        yield
    finally:
        state.over.set()
        # What comes after the command is not stopped by its signal.
        _state = _State()
        signal.set_wakeup_fd(file_before)
        for number, handler in before.items():
            # A scheduler may repeat it while Python ends.
            ignored = state.received and number != signal.SIGINT
            signal.signal(number, signal.SIG_IGN if ignored else handler)
        os.close(write)  # which ends the thread


def leave(left: str) -> None:
    """Sets what the line of a command that a signal ends says of its work.

    Args:
        left: `nothing is saved`.
    """
    _state.left = left


def interrupted(number: int) -> Interrupted:
    """The error of a signal that came to any rank, with what the command leaves of its work.

    Args:
        number: The signal's number.
    """
    return Interrupted(number, _state.left)


def received() -> int:
    """The first signal that has come to this process, or to another rank; 0: none has."""
    return _state.received


def defer(on: bool = True) -> None:
    """From here on a signal is only noted, but for `at_once`; or no longer.

    Args:
        on: False ends it. A signal that was noted meanwhile raises at `raise_if_received`.
    """
    _state.deferred = on
    # A scheduler may repeat it while the run ends.
    _state.raised = _state.raised or (not on and _state.received > 0)


def raise_if_received() -> None:
    """Raises the signal that was noted.

    Raises:
        Interrupted: One was.
    """
    if _state.received:
        _state.raised = True
        raise Interrupted(_state.received, _state.left)


class at_once:  # in small letters: it is used as a function
    """Wraps a wait: in here a signal raises `Interrupted` even if signals are deferred.

    The wait is not to be repeated. A class, because it wraps the wait for each piece of a batch.
    """

    def __enter__(self) -> None:
        """Raises a signal that was noted before."""
        # First: a signal that comes between the two would only be noted.
        _state.waits += 1
        try:
            raise_if_received()
        except Interrupted:
            _state.waits -= 1
            raise

    def __exit__(self, *_: object) -> None:
        """From here on signals are deferred as before."""
        _state.waits -= 1


def pass_on(number: int) -> None:
    """Notes a signal that has come to another rank, as if it had come to this process.

    To be called by another thread than the main one.

    Args:
        number: The signal's number.
    """
    if not _state.received:
        _state.received = number
        # The handler runs in the main thread, whatever it waits for. SIGUSR1 counts no Ctrl-C.
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGUSR1)


def _handle(number: int, frame: FrameType | None) -> None:
    state = _state
    state.received = state.received or number
    state.ctrl_c += number == signal.SIGINT
    if state.ctrl_c > 1:
        raise Interrupted(signal.SIGINT, state.left)
    if state.raised or (state.deferred and not state.waits):
        return
    state.raised = True
    raise Interrupted(state.received, state.left)


def _listen(read: int, state: _State) -> None:
    """The thread: notes signals, and ends the process if its main thread does not."""
    with os.fdopen(read, "rb", buffering=0) as pipe:
        while come := pipe.read(1):
            number = come[0]
            if number not in _SIGNALS:
                continue
            state.received = state.received or number
            if not state.deferred:
                _ensure_end(state)


def _ensure_end(state: _State) -> None:
    """Waits for the main thread to end the command; ends the process if it does not."""
    # A run may have begun to take steps in just this moment.
    if state.over.wait(_TO_NOTICE) or state.deferred:
        return
    if state.raised and state.over.wait(_TO_END):
        return
    error = Interrupted(state.received, state.left)
    end_now(error.status, str(error) if launcher.is_first_process() else "")


def _forget() -> None:
    """In a forked child: signals have their usual effect again, and write nothing to our pipe."""
    global _state
    if signal.getsignal(signal.SIGTERM) is not _handle:
        return
    _state = _State()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)
