"""A run in processes of its own: a sweep starts one after the other, and outlives each.

What the run prints goes to its log. Signals that come to the sweep are passed on, so that the run
saves its step; if the sweep itself is killed, the kernel tells the run to end (Linux).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from align_train.cluster.interruption import defer, raise_if_received, received
from align_train.cluster.signals import end_with_the_run
from align_train.errors import Interrupted, UserError, shown

_POLL = 0.2  # seconds
_SIGNAL = 128  # a status above it is that of a signal
_LOST = 75  # status: a process or machine was lost
_KILL_AFTER = 10.0  # seconds that a run has after a second Ctrl-C
_MINUTE = 60.0
_TAIL = 4096  # bytes of the log in which the last line is looked for
_LINE = 240  # characters of it


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        status: Its exit status; negative: killed by that signal.
        minutes: How long it took.
        last_line: The last line that it printed.
    """

    status: int
    minutes: float
    last_line: str

    @property
    def lost(self) -> bool:
        """Whether the run was interrupted from outside, and not by its settings."""
        return self.status < 0 or self.status == _LOST or self.status > _SIGNAL


def spell_end(ended: Ended) -> str:
    """Says how a run ended, in words for the sweep's one line about it.

    Args:
        ended: How it ended.
    """
    if ended.status == 0:
        return f"done in {ended.minutes:.1f} minutes"
    return f"failed after {ended.minutes:.1f} minutes, status {ended.status} ({ended.last_line})"


def run_apart(arguments: Sequence[str], log: Path) -> Ended:
    """Trains one run to its end. One that is lost is started once more, from its checkpoint.

    Args:
        arguments: Of `python -m align_train`.
        log: The file that gets what it prints, behind what is there.

    Raises:
        Interrupted: A signal came to this process, and the run has ended by it.
        UserError: The log cannot be written.
    """
    first = _run(arguments, log)
    if not first.lost:
        return first
    # Once only: a run that is killed for its memory each time would be started for ever.
    second = _run(arguments, log)
    return Ended(second.status, first.minutes + second.minutes, second.last_line)


def _run(arguments: Sequence[str], log: Path) -> Ended:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        # Appended: the second try must keep the words in which the first one ended.
        file = log.open("a", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{log}: cannot be written ({error.strerror}); choose another output_dir"
        ) from None

    begun = time.monotonic()
    # From here on a signal is only noted: the run must hear of it first.
    defer()
    with file:
        run = subprocess.Popen(
            [sys.executable, "-m", "align_train", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            # Ctrl-C comes to the sweep alone, which passes it on once.
            start_new_session=True,
            preexec_fn=partial(end_with_the_run, os.getpid(), signal.SIGTERM),
        )
        try:
            _wait(run)
        except Interrupted:
            _end(run)
    defer(False)
    raise_if_received()
    return Ended(run.returncode, (time.monotonic() - begun) / _MINUTE, _last_line(log))


def _wait(run: subprocess.Popen[bytes]) -> None:
    told = False
    while run.poll() is None:
        # Passed on once. After a second Ctrl-C the handler itself raises, in the `sleep` below.
        if received() and not told:
            told = True
            run.send_signal(received())
        time.sleep(_POLL)


def _end(run: subprocess.Popen[bytes]) -> None:
    """After a second Ctrl-C: the run has a moment, and is then killed with all its processes."""
    # Usually the second Ctrl-C of the run as well, at which it ends without saving its step.
    run.send_signal(signal.SIGINT)
    try:
        run.wait(_KILL_AFTER)
    except subprocess.TimeoutExpired:
        # The run leads a session of its own, so its group has all ranks and loader processes.
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def _last_line(log: Path) -> str:
    # Only the end: the log of a long run may be large.
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        tail = file.read().decode("utf-8", errors="replace")
    # A progress bar writes its states over each other, with \r between them.
    lines = [line for line in tail.replace("\r", "\n").split("\n") if line.strip()]
    return shown(lines[-1].strip(), _LINE) if lines else "it printed nothing"
