"""Where this process is in the run, and for how long it may be there without progress.

Starting, evaluating, ending and the first step, in which blocks are compiled, may take long, and
not all of that notes its progress. So these have three times the timeout. After a signal, a step
or evaluation that gets nowhere has less time: schedulers do not wait.
"""

from __future__ import annotations

import time

from align_train.cluster import collectives
from align_train.cluster.position import ENDING, EVALUATING, FINISHED, SAVING, STARTING, Position

LONG = 3  # times the timeout
_SLOWER = 3  # times the longest that this start has taken between two signs of progress


class Whereabouts:
    """The main thread writes these facts, a thread of the watchdog reads them, without a lock."""

    def __init__(self) -> None:
        """At the start of the run."""
        self._step = 0
        self._first_step = 0  # of this start
        self._place = STARTING
        self._passes = 0
        self._since = time.monotonic()
        self._longest = 0.0  # seconds between two signs of progress

    def at(self, place: str, step: int | None = None) -> None:
        """Notes the place.

        Args:
            place: E.g. "forward pass", "compiling block 3 of 12".
            step: The step, from 1; None: the same as before.
        """
        self._place = place
        self._passes = 0
        self._moved()
        if step is not None:
            self._step = step
            self._first_step = self._first_step or step

    def pass_done(self) -> None:
        """Notes progress within the place: one more chunk has gone through a model."""
        self._passes += 1
        self._moved()

    def begin_anew(self, now: float) -> None:
        """Forgets how long this process has got nowhere.

        Args:
            now: Seconds, by `time.monotonic`.
        """
        self._since = now

    @property
    def position(self) -> Position:
        """The place, for the other processes."""
        return Position(self._step, self._place, self._passes, collectives.begun())

    @property
    def times(self) -> int:
        """How many times the timeout this process may be here without progress."""
        # Step 0 is the start.
        is_long = self._step in (0, self._first_step)
        return LONG if is_long or self._place.startswith((EVALUATING, ENDING)) else 1

    def patience_after_signal(self, silence: float, timeout: float) -> float:
        """Seconds that this process may be here without progress once a signal has come.

        Args:
            silence: Seconds that a step may get nowhere then; more if steps are slow.
            timeout: Seconds that it may otherwise.
        """
        most = self.times * timeout
        if self._place.startswith((ENDING, SAVING)):
            return most
        return min(most, max(silence, _SLOWER * self._longest))

    def is_stuck(self, now: float, patience: float) -> bool:
        """Whether this process has got nowhere for too long.

        Args:
            now: Seconds, by `time.monotonic`.
            patience: Seconds.
        """
        # Rank 0, for which it waits there, looks at its own progress.
        return self._place != FINISHED and now - self._since > patience

    def _moved(self) -> None:
        now = time.monotonic()
        self._longest = max(self._longest, now - self._since)
        self._since = now
