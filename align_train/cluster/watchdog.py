"""When a process of the run dies or hangs, all others end, and one of them says which it was.

A collective cannot say it: if one rank is missing, all others just wait. So each process gives
signs of life through a store that rank 0 keeps all the while (`run_store.py`). Three things end
a run:

- *ended*: a process that ends by an error leaves its message and status to the others.
- *silent*: a process that gives no sign for `silence` seconds is dead, frozen (SIGSTOP, a machine
  that swaps) or cut off. Rank 0 looks at all, all look at rank 0. If a collective has reported
  that a process is gone, a few seconds of silence tell which.
- *stuck*: all processes live, but one that is behind the others has got nowhere for `timeout`
  seconds; at some places it may take longer (`whereabouts.py`). This holds for one process too.

A signal that comes to one of them (`interruption.py`) is told to all.

If the main thread hangs in a collective, only `os._exit` gets it out. Checkpoints are whole or
absent, so this loses only the work since the last one.

Price: two threads, and one small message a process and second; with one process one thread.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from threading import Event, Thread
from typing import TypeVar, cast

from align_train.cluster import interruption, sharing
from align_train.cluster.ending import end_now
from align_train.cluster.lookout import Lookout
from align_train.cluster.position import ASKING, FINISHED
from align_train.cluster.run_store import RunStore
from align_train.cluster.verdict import Verdict
from align_train.cluster.whereabouts import Whereabouts
from align_train.errors import Interrupted, Lost, UserError, one_line

T = TypeVar("T")

_GRACE = 5.0  # seconds that a process has to end by itself before a verdict ends it


class Watchdog:
    """One process's part in the watch over all of them.

    The command wraps all of a run's work in `watching`; training calls `at` and `pass_done`.
    """

    def __init__(
        self,
        *,
        rank: int,
        processes: int,
        silence: float,
        timeout: float,
        all_come: bool,
        setting: str = "trainer.timeout",
    ) -> None:
        """Starts nothing yet, see `open`.

        Args:
            rank: This process's rank.
            processes: How many processes the run has.
            silence: Seconds without a sign of life after which a process counts as gone.
            timeout: Seconds without progress after which a process counts as stuck.
            all_come: True if a launcher has started all processes, False if rank 0 starts them.
            setting: The setting of the timeout, for messages; empty: there is none.
        """
        self.rank = rank
        self.processes = processes
        self.silence = silence
        self.timeout = timeout
        self.all_come = all_come
        # Seconds between two signs of life: six may be lost before a process counts as gone.
        self.interval = min(1.0, silence / 6)

        # Rank and status of a child process that has ended; the trainer's launcher knows it.
        self.ended_child: Callable[[], tuple[int, int] | None] = lambda: None

        self._in_group = False
        self._store: RunStore | None = None
        self._over = Event()
        self._first_is_done = Event()
        self._verdict: Verdict | None = None
        self._here = Whereabouts()

        self._exchanged = time.monotonic()
        self._stuck = False
        self._told = False  # whether the others know of a signal to this process
        self._somebody_left = False
        self._lookout = Lookout(
            rank=rank,
            processes=processes,
            silence=silence,
            timeout=timeout,
            all_come=all_come,
            setting=setting,
        )

    def at(self, place: str, step: int | None = None) -> None:
        """Notes where this process is; the next sign of life carries it.

        Args:
            place: E.g. "forward pass", "compiling block 3 of 12".
            step: The step, from 1; None: the same as before.
        """
        self._here.at(place, step)

    def pass_done(self) -> None:
        """Notes progress within a place: one more chunk has gone through a model."""
        self._here.pass_done()

    def group_formed(self) -> None:
        """Notes that all processes have found each other in a process group."""
        self._in_group = True

    def open(self, host: str, port: int) -> int:
        """Opens the store and starts both threads. Rank 0 keeps the store, the others connect.

        With one process there is no store, and one thread.

        Args:
            host: The machine of rank 0.
            port: The store's port there; 0 takes any that is free.

        Returns:
            The store's port.

        Raises:
            UserError: On rank 0, if the port is not free.
            Lost: On other ranks, if rank 0 cannot be reached within `timeout` seconds.
        """
        if self.processes == 1:
            Thread(target=self._watch, daemon=True).start()
            return port

        self._store, port = RunStore.open(
            host,
            port,
            rank=self.rank,
            processes=self.processes,
            patience=self.timeout,
            silence=self.silence,
        )
        self._exchanged = time.monotonic()
        sharing.use(self)
        # Daemons: the watch must not keep a process alive that has done its work.
        Thread(target=self._exchange, args=(self._store,), daemon=True).start()
        Thread(target=self._watch, daemon=True).start()
        return port

    def from_first(self, key: str, make: Callable[[], T]) -> T:
        """Gives all ranks what rank 0 makes; they wait for as long as that takes.

        Args:
            key: Names the thing; the same on all ranks.
            make: Makes it, of plain lists, dicts, texts and numbers; called on rank 0 only.

        Raises:
            UserError: What `make` raised on rank 0; without a text on the others.
            Lost: Another process ended meanwhile.
        """
        if self._store is None:
            return make()

        # Through the store: no process group exists yet.
        if self.rank == 0:
            try:
                made = make()
            except Exception as error:
                # The others must not wait. An OSError becomes a UserError on its way.
                default = UserError.status if isinstance(error, OSError) else 1
                self._store.publish(key, {"status": getattr(error, "status", default)})
                raise
            self._store.publish(key, {"made": made})
            return made

        place = self._here.position.place
        self.at(ASKING)
        while (published := self._store.published(key)) is None:
            if self._verdict is not None:
                raise self._verdict.as_error(self.rank)
            time.sleep(self.interval / 10)
        self.at(place)
        if "made" not in published:
            raise Lost("", status=published["status"])  # rank 0 prints it
        return cast(T, published["made"])

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Wraps all that a run does.

        An error inside goes to the other processes. At the end all wait for rank 0, which may have
        more to do: launchers may kill those that stay on after others have gone.

        Raises:
            Lost: Another process ended or hangs.
        """
        try:
            yield
            self._wait_for_first()
            if self._verdict is not None:
                raise self._verdict.as_error(self.rank)
        except UserError as error:
            text = str(error)
            if not text:
                # All ranks have raised it, and rank 0 may still have a checkpoint to write.
                self._wait_for_first()
                raise
            if self._verdict is None:
                standing = self._leave(text, error.status)
            else:
                standing = self._verdict.message
            # All ranks may meet the same error: the first one prints it.
            if standing not in (text, self._blame(text)) and standing.endswith(text):
                raise Lost("", status=error.status) from None
            raise
        except KeyboardInterrupt as error:
            # Rank 0 says it, whichever rank the signal came to.
            stopped = error if isinstance(error, Interrupted) else Interrupted()
            self._leave(str(stopped), stopped.status, printed=self.rank == 0)
            raise
        except BaseException as error:
            text = one_line(error, 300)
            self._leave(f"{type(error).__name__}: {text}", 1)
            raise
        finally:
            self._leave()

    def explain(self, text: str) -> UserError | None:
        """Names the process to blame for an error like "connection closed by peer".

        Waits until that is known.

        Args:
            text: The error that this process got.

        Returns:
            The error to raise instead; None if there is only one process.
        """
        if self._store is None:
            return None

        self._somebody_left = True
        # The threads need some intervals to see the silence and to spread the verdict.
        deadline = time.monotonic() + self.silence + 8 * self.interval
        while self._verdict is None and time.monotonic() < deadline:
            time.sleep(self.interval / 10)
        if self._verdict is not None:
            return self._verdict.as_error(self.rank)

        missing = self._lookout.missing(self._store)
        if missing and not self._in_group:
            return Lost(f"{missing}: has not come; did it end before?")
        return Lost(
            f"connection between ranks lost although all are alive; check the network "
            f"({text[:300]})"
        )

    def _wait_for_first(self) -> None:
        self.at(FINISHED)  # so that this rank does not count as stuck
        while self._store is not None and self.rank != 0 and self._verdict is None:
            if self._first_is_done.wait(self.interval):
                return

    def _blame(self, message: str) -> str:
        name = self._store.own_name if self._store is not None else ""
        return f"{name} ended: {message}"

    def _leave(self, message: str = "", status: int = 0, *, printed: bool = True) -> str:
        """Ends both threads. Rank 0 stays until the others have heard, or have had time to.

        Returns:
            The message of the verdict that stands; empty if none is known.
        """
        if self._over.is_set():
            return ""

        self._over.set()
        if self._store is None:
            return ""
        sharing.use(None)
        standing = ""
        with contextlib.suppress(Exception):  # the store may be gone already
            if message:
                blame = self._blame(message) if printed else message
                verdict = self._store.propose(blame, status=status, printed=printed)
                standing = verdict.message
            if self.rank == 0:
                self._store.finish_first()

            self._store.leave()
            if self.rank == 0:
                self._store.wait_for_others(
                    self.processes if self.all_come else None,
                    patience=4 * self.interval,
                    patience_if_coming=self.silence,
                )
        return standing

    def _exchange(self, store: RunStore) -> None:
        """The first thread: gives signs of life and looks for those of others."""
        while not self._over.wait(self.interval):
            try:
                store.beat(self._here.position)
                self._share_signal(store)
                self._look(store)
            except Exception:  # of any kind: the store is gone, and with it rank 0
                if not self._over.is_set():
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
            self._verdict = self._verdict or verdict
            return
        if store.first_is_done():
            self._first_is_done.set()
            return

        ended = self.ended_child()
        # After a signal rank 0 ends the processes that it has started.
        if ended is not None and not interruption.received():
            self._lookout.blame_child(store, *ended)
        self._lookout.look(store, soon=self._somebody_left)
        if self._stuck:
            waited, status = self._waited()
            self._lookout.blame_who_is_behind(store, waited=waited, status=status)

    def _watch(self) -> None:
        """The second thread: never waits for anything, and ends the process if need be."""
        last = time.monotonic()
        heard: float | None = None
        while not self._over.wait(self.interval / 2):
            now = time.monotonic()
            if now - last > self.silence / 2:
                # This process was frozen itself: the signs that it missed blame nobody.
                self._exchanged = now
                self._here.begin_anew(now)
                self._lookout.begin_anew(now)
            last = now

            self._stuck = self._here.is_stuck(now, self._patience)
            if self._store is None:
                if self._stuck:
                    self._end(self._verdict_alone())
                continue

            # The first thread may hang in a request to a store that is gone.
            if now - self._exchanged > self.silence + 2 * self.interval:
                first = self._store.first_name
                self._decide(f"{first} has given no sign of life for {self.silence:g} s")

            # A main thread that does not hang ends by an error of its own, with its clean-up.
            if self._verdict is not None:
                heard = heard or now
                if now - heard > _GRACE:
                    self._end(self._verdict)

    @property
    def _patience(self) -> float:
        """Seconds that this process may get nowhere."""
        if interruption.received():
            return self._here.patience_after_signal(self.silence, self.timeout)
        return self._here.times * self.timeout

    def _waited(self) -> tuple[str, int]:
        """For how long this process has got nowhere, in words, and the status that it ends with."""
        number = interruption.received()
        if not number:
            return self._lookout.waited(self._here.times), Lost.status
        after = f"for {self._patience:.0f} s after the signal to stop"
        return f"{after}; nothing is saved after the last checkpoint", Interrupted(number).status

    def _verdict_alone(self) -> Verdict:
        waited, status = self._waited()
        return Verdict(f"no progress in {self._here.position}, {waited}", status)

    def _decide(self, message: str) -> None:
        """Without the store, this process decides for itself."""
        if self._verdict is None:
            self._verdict = Verdict(message, Lost.status, alone=True)

    def _end(self, verdict: Verdict) -> None:
        if not self._over.is_set():
            end_now(verdict.status, verdict.message if verdict.is_printed_by(self.rank) else "")
