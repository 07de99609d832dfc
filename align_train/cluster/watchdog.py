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

Price: two threads (`watch.py`), and one small message a process and second; with one process one
thread.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar, cast

from align_train.cluster import sharing
from align_train.cluster.lookout import Lookout
from align_train.cluster.position import ASKING, FINISHED
from align_train.cluster.run_store import RunStore
from align_train.cluster.watch import Watch
from align_train.errors import Interrupted, Lost, UserError, one_line

T = TypeVar("T")


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
        # Rank and status of a child process that has ended; the trainer's launcher knows it.
        self.ended_child: Callable[[], tuple[int, int] | None] = lambda: None

        self._in_group = False
        self._store: RunStore | None = None
        self._lookout = Lookout(
            rank=rank,
            processes=processes,
            silence=silence,
            timeout=timeout,
            all_come=all_come,
            setting=setting,
        )
        self._watch = Watch(
            rank=rank,
            silence=silence,
            timeout=timeout,
            lookout=self._lookout,
            ended_child=lambda: self.ended_child(),
        )

    def at(self, place: str, step: int | None = None) -> None:
        """Notes where this process is; the next sign of life carries it.

        Args:
            place: E.g. "forward pass", "compiling block 3 of 12".
            step: The step, from 1; None: the same as before.
        """
        self._watch.here.at(place, step)

    def pass_done(self) -> None:
        """Notes progress within a place: one more chunk has gone through a model."""
        self._watch.here.pass_done()

    def group_formed(self) -> None:
        """Notes that all processes have found each other in a process group."""
        self._in_group = True

    def open(self, host: str, port: int) -> int:
        """Opens the store and starts the watch. Rank 0 keeps the store, the others connect.

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
            self._watch.start(None)
            return port

        self._store, port = RunStore.open(
            host,
            port,
            rank=self.rank,
            processes=self.processes,
            patience=self.timeout,
            silence=self.silence,
        )
        sharing.use(self)
        self._watch.start(self._store)
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

        place = self._watch.here.position.place
        self.at(ASKING)
        while (published := self._store.published(key)) is None:
            if self._watch.verdict is not None:
                raise self._watch.verdict.as_error(self.rank)
            time.sleep(self._watch.interval / 10)
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
            if self._watch.verdict is not None:
                raise self._watch.verdict.as_error(self.rank)
        except UserError as error:
            text = str(error)
            if not text:
                # All ranks have raised it, and rank 0 may still have a checkpoint to write.
                self._wait_for_first()
                raise
            if self._watch.verdict is None:
                standing = self._leave(text, error.status)
            else:
                standing = self._watch.verdict.message
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

        self._watch.somebody_left = True
        # The threads need some intervals to see the silence and to spread the verdict.
        deadline = time.monotonic() + self.silence + 8 * self._watch.interval
        while self._watch.verdict is None and time.monotonic() < deadline:
            time.sleep(self._watch.interval / 10)
        if self._watch.verdict is not None:
            return self._watch.verdict.as_error(self.rank)

        missing = self._lookout.missing(self._store)
        if missing and not self._in_group:
            return Lost(f"{missing}: has not come; did it end before?")
        return Lost(
            f"connection between ranks lost although all are alive; check the network "
            f"({text[:300]})"
        )

    def _wait_for_first(self) -> None:
        self.at(FINISHED)  # so that this rank does not count as stuck
        while self._store is not None and self.rank != 0 and self._watch.verdict is None:
            if self._watch.first_is_done.wait(self._watch.interval):
                return

    def _blame(self, message: str) -> str:
        name = self._store.own_name if self._store is not None else ""
        return f"{name} ended: {message}"

    def _leave(self, message: str = "", status: int = 0, *, printed: bool = True) -> str:
        """Ends both threads. Rank 0 stays until the others have heard, or have had time to.

        Returns:
            The message of the verdict that stands; empty if none is known.
        """
        if self._watch.over.is_set():
            return ""

        self._watch.over.set()
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
                    patience=4 * self._watch.interval,
                    patience_if_coming=self.silence,
                )
        return standing
