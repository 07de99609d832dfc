"""The two threads of the watchdog, beside the main one.

The first exchanges signs of life with the other processes. It may hang in a request to a store
that is gone. So the second never waits for anything, and ends the process if need be.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Thread

from align_train.cluster import interruption
from align_train.cluster.ending import end_now
from align_train.cluster.lookout import Lookout
from align_train.cluster.run_store import RunStore
from align_train.cluster.verdict import Verdict
from align_train.cluster.whereabouts import Whereabouts
from align_train.errors import Interrupted, Lost

_GRACE = 5.0  # seconds that a process has to end by itself before a verdict ends it


class Watch:
    """The watch of one process over itself and the others. The main thread reads its verdict.

    Attributes:
        here: Where this process is; the main thread notes it.
        interval: Seconds between two signs of life.
        verdict: Why the run ends; None while it goes on.
        first_is_done: Set once rank 0 has done all of its work.
        somebody_left: Set by the main thread if it knows that some process is gone.
        over: Set by the main thread when it has done its work: both threads end.
    """

    def __init__(
        self,
        *,
        rank: int,
        silence: float,
        timeout: float,
        lookout: Lookout,
        ended_child: Callable[[], tuple[int, int] | None],
    ) -> None:
        """Starts no thread yet.

        Args:
            rank: This process's rank.
            silence: Seconds without a sign of life after which a process counts as gone.
            timeout: Seconds without progress after which a process counts as stuck.
            lookout: Finds the process to blame.
            ended_child: Rank and status of a child process that has ended; None: none has.
        """
        self._rank = rank
        self._silence = silence
        self._timeout = timeout
        self._lookout = lookout
        self._ended_child = ended_child
        # Six signs of life may be lost before a process counts as gone.
        self.interval = min(1.0, silence / 6)

        self.here = Whereabouts()
        self.verdict: Verdict | None = None
        self.first_is_done = Event()
        self.somebody_left = False
        self.over = Event()

        self._store: RunStore | None = None
        self._exchanged = time.monotonic()
        self._stuck = False
        self._told = False  # whether the others know of a signal to this process

    def start(self, store: RunStore | None) -> None:
        """Starts the threads.

        Args:
            store: The run's store; None: there is one process, and one thread.
        """
        self._store = store
        self._exchanged = time.monotonic()
        # Daemons: the watch must not keep a process alive that has done its work.
        if store is not None:
            Thread(target=self._exchange, args=(store,), daemon=True).start()
        Thread(target=self._supervise, daemon=True).start()

    def _exchange(self, store: RunStore) -> None:
        """The first thread: gives signs of life and looks for those of others."""
        while not self.over.wait(self.interval):
            try:
                store.beat(self.here.position)
                self._share_signal(store)
                self._look(store)
            except Exception:  # of any kind: the store is gone, and with it rank 0
                if not self.over.is_set():
                    self._decide(f"{store.first_name} is gone")
                return
            self._exchanged = time.monotonic()

    def _share_signal(self, store: RunStore) -> None:
        if number := interruption.received():
            if not self._told:
                store.ask_to_stop(number)
                self._told = True
        elif number := store.asked_to_stop():
            interruption.pass_on(number)

    def _look(self, store: RunStore) -> None:
        verdict = store.verdict()
        if verdict is not None:
            self.verdict = self.verdict or verdict
            return
        if store.first_is_done():
            self.first_is_done.set()
            return

        ended = self._ended_child()
        # After a signal rank 0 ends the processes that it has started.
        if ended is not None and not interruption.received():
            self._lookout.blame_child(store, *ended)
        self._lookout.look(store, soon=self.somebody_left)
        if self._stuck:
            waited, status = self._waited()
            self._lookout.blame_who_is_behind(store, waited=waited, status=status)

    def _supervise(self) -> None:
        """The second thread: never waits for anything, and ends the process if need be."""
        last = time.monotonic()
        heard: float | None = None
        while not self.over.wait(self.interval / 2):
            now = time.monotonic()
            if now - last > self._silence / 2:
                # This process was frozen itself: the signs that it missed blame nobody.
                self._exchanged = now
                self.here.begin_anew(now)
                self._lookout.begin_anew(now)
            last = now

            self._stuck = self.here.is_stuck(now, self._patience)
            if self._store is None:
                if self._stuck:
                    self._end(self._verdict_alone())
                continue

            # The first thread may hang in a request to a store that is gone.
            if now - self._exchanged > self._silence + 2 * self.interval:
                first = self._store.first_name
                self._decide(f"{first} has given no sign of life for {self._silence:g} s")

            # A main thread that does not hang ends by an error of its own, with its clean-up.
            if self.verdict is not None:
                heard = heard or now
                if now - heard > _GRACE:
                    self._end(self.verdict)

    @property
    def _patience(self) -> float:
        """Seconds that this process may get nowhere."""
        if interruption.received():
            return self.here.patience_after_signal(self._silence, self._timeout)
        return self.here.times * self._timeout

    def _waited(self) -> tuple[str, int]:
        """For how long this process has got nowhere, in words, and the status that it ends with."""
        number = interruption.received()
        if not number:
            return self._lookout.waited(self.here.times), Lost.status
        after = f"for {self._patience:.0f} s after the signal to stop"
        return f"{after}; nothing is saved after the last checkpoint", Interrupted(number).status

    def _verdict_alone(self) -> Verdict:
        waited, status = self._waited()
        return Verdict(f"no progress in {self.here.position}, {waited}", status)

    def _decide(self, message: str) -> None:
        """Without the store, this process decides for itself."""
        if self.verdict is None:
            self.verdict = Verdict(message, Lost.status, alone=True)

    def _end(self, verdict: Verdict) -> None:
        if not self.over.is_set():
            end_now(verdict.status, verdict.message if verdict.is_printed_by(self._rank) else "")
