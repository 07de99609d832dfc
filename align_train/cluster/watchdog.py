"""When a process of the run dies or hangs, all others end, and one says which it was.

A collective cannot tell: where one rank is missing, all others wait. So each process gives a sign of life (a counter, and where
its main thread is) through a store that rank 0 keeps from the run's first line to its last, and three things end a run:

- *told*: a process that ends by an error leaves its message and status there; the others end with that status.
- *silent*: a process that gives no sign for `silence` seconds is dead, frozen (SIGSTOP, a machine that swaps) or cut off.
  Rank 0 looks at all, all look at rank 0. Where a collective has told that somebody is gone, a few seconds of silence say who.
- *stuck*: processes live, but one has got nowhere for `timeout` seconds: those that are behind the others are named. What
  takes as long as it takes (starting, evaluating) is left to the collectives' own timeout.

Where the main thread hangs in a collective, only `os._exit` gets it out: checkpoints are whole or absent, so nothing is lost
beyond the last. Price: two threads, and one small message a process and second.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from threading import Event, Thread
from typing import Any

import lightning
from lightning import Callback
from torch._C._distributed_c10d import TCPStore

from align_train.errors import Lost, UserError

_PLACES = ("starting", "waiting for data", "forward pass", "backward pass")


_GRACE = (
    5.0  # seconds in which a process may end by itself before a message that another left ends it
)


_SOON = 5.0  # seconds of silence that tell who is gone, where somebody is


_NEVER_STUCK = ("starting", "evaluating")  # takes as long as it takes


class Watchdog(Callback):
    """rank, processes: this process's number, and how many there are; with one, nothing happens. silence, timeout: seconds, see
    above. all_come: whether somebody else has started all of them. Stands last in the trainer's list.

    `watching` goes around all that a run does: within, an error is told to the others, and at its end all wait for rank 0,
    which may have more to do, so that a launcher may end processes that stay when others have gone. `explain` says which
    process is to blame for an error that is none of this one's.
    """

    def __init__(
        self, *, rank: int, processes: int, silence: float, timeout: float, all_come: bool
    ) -> None:
        self.rank, self.processes, self.silence, self.timeout = rank, processes, silence, timeout
        self.all_come = all_come
        self.interval = min(1.0, silence / 6)
        self.ended_child: Callable[[], tuple[int, int] | None] = lambda: None
        self.grouped = False  # whether the processes have found each other in a process group
        self._store: TCPStore | None = None
        self._over, self._first_is_done = Event(), Event()
        self._verdict: dict[str, Any] | None = None
        self._step, self._place, self._passes, self._since = 0, "starting", 0, time.monotonic()
        self._exchanged = time.monotonic()
        self._stuck = self._somebody_left = False
        self._beats = [(0, 0.0)] * processes  # of each rank: its counter, and when that last moved
        self._first_is = "rank 0"

    # --- where this process is: set by the loop, told with each sign of life ------------------------------------------------

    def at(self, place: str, step: int | None = None) -> None:
        self._place, self._passes, self._since = place, 0, time.monotonic()
        self._step = self._step if step is None else step

    def setup(self, *_: Any, **__: Any) -> None:
        self.grouped = True

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        model: Any = module.model
        model.register_forward_hook(self._pass_done)  # of a chunk: collectives come after the last
        self.at("waiting for data", trainer.global_step + 1)

    def _pass_done(self, *_: Any) -> None:
        self._passes, self._since = self._passes + 1, time.monotonic()

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.at("forward pass", trainer.global_step + 1)

    def on_before_backward(self, *_: Any) -> None:
        self.at("backward pass")

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.at("waiting for data", trainer.global_step + 1)

    # --- begin and end ------------------------------------------------------------------------------------------------------

    def open(self, host: str, port: int) -> int:
        """Rank 0 keeps the store at that port of its machine (0: any that is free; it is returned), the others look for it."""
        if self.processes == 1:
            return port
        patience = timedelta(seconds=self.timeout)
        try:
            store = TCPStore(
                host, port, is_master=self.rank == 0, wait_for_workers=False, timeout=patience
            )
        except Exception as error:  # of several kinds
            text = " ".join(str(error).split())[:200]
            if self.rank == 0:
                raise UserError(
                    f"port {port} on {socket.gethostname()} is not free ({text}); set MASTER_PORT"
                ) from None
            raise Lost(
                f"rank {self.rank} has not found rank 0 at {host}:{port} within {self.timeout:g} s (trainer.timeout): did it "
                f"end before, can all machines reach that place? ({text})"
            ) from None
        store.set_timeout(timedelta(seconds=max(self.silence, 10)))
        self._store = store
        store.set(f"who/{self.rank}", self._who())
        store.add("came", 1)
        self._first_is = store.get("who/0").decode()
        self._exchanged = time.monotonic()
        for target in (self._exchange, self._watch):
            Thread(target=target, daemon=True).start()
        return int(store.port)

    def from_first(self, make: Callable[[], int]) -> int:
        """A number that rank 0 makes, on all ranks; they wait for as long as it takes."""
        if self._store is None:
            return make()
        if self.rank == 0:
            made = make()
            self._store.set("made", str(made))
            return made
        while not self._store.check(["made"]):
            if self._verdict is not None:
                raise self._as_error()
            time.sleep(self.interval / 10)
        return int(self._store.get("made"))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        try:
            yield
            self._wait_for_first()
            if self._verdict is not None:
                raise self._as_error()
        except UserError as error:
            if not str(
                error
            ):  # all ranks have raised it, and rank 0 may still have a checkpoint to write
                self._wait_for_first()
            elif self._verdict is None:  # else it is the verdict
                self._leave(str(error), error.status)
            raise
        except BaseException as error:
            self._leave(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", 1)
            raise
        finally:
            self._leave()

    def _wait_for_first(self) -> None:
        self.at("evaluating")
        while self._store is not None and self.rank != 0 and self._verdict is None:
            if self._first_is_done.wait(self.interval):
                return

    def _leave(self, message: str = "", status: int = 0) -> None:
        """Ends the threads. Rank 0, which keeps the store, stays until the others have heard, or have had time to."""
        if self._store is None or self._over.is_set():
            return
        self._over.set()
        with contextlib.suppress(Exception):
            if message:
                self._tell(f"{self._who()} ended: {message}", status=status, told=True)
            if self.rank == 0:
                self._store.set("first is done", "")
            left = self._store.add("left", 1)
            came = self._store.add("came", 0)
            patience = (
                self.silence if self.all_come and came < self.processes else 4 * self.interval
            )
            deadline = time.monotonic() + patience
            while self.rank == 0 and time.monotonic() < deadline:
                left, came = self._store.add("left", 0), self._store.add("came", 0)
                if left >= (self.processes if self.all_come else came):
                    return
                time.sleep(self.interval / 10)

    def explain(self, text: str) -> UserError | None:
        """Which process is to blame for an error of the kind "the other side is gone". Waits until that is known; None where
        there is nobody else."""
        if self._store is None:
            return None
        self._somebody_left = True
        deadline = time.monotonic() + self.silence + 8 * self.interval
        while self._verdict is None and time.monotonic() < deadline:
            time.sleep(self.interval / 10)
        if self._verdict is not None:
            return self._as_error()
        missing = [
            f"rank {number}"
            for number in range(self.processes)
            if not self._store.check([f"who/{number}"])
        ]
        if missing and not self.grouped:
            return Lost(
                f"{', '.join(missing[:8])}: has not come within {self.timeout:g} s (trainer.timeout); did it end before?"
            )
        return Lost(
            f"the processes have lost each other, and all live; is the network up? ({text[:300]})"
        )

    def _as_error(self) -> Lost:
        assert self._verdict is not None
        return Lost(
            self._verdict["message"] if self._is_to_speak() else "", status=self._verdict["status"]
        )

    def _is_to_speak(self) -> bool:
        """One line for all: whoever ended by an error has told it; what was noticed, rank 0 tells, or who misses rank 0."""
        assert self._verdict is not None
        return self._verdict["own"] or (self.rank == 0 and not self._verdict["told"])

    # --- the exchange -------------------------------------------------------------------------------------------------------

    def _exchange(self) -> None:
        assert self._store is not None
        while not self._over.wait(self.interval):
            try:
                self._store.set(
                    f"state/{self.rank}", json.dumps([self._step, self._place, self._passes])
                )
                self._store.add(f"beat/{self.rank}", 1)
                self._look()
            except Exception:  # whatever the store raises: it is gone, and with it who kept it
                if not self._over.is_set() and self._verdict is None:
                    self._decide(f"{self._first_is} is gone")
                return
            self._exchanged = time.monotonic()

    def _look(self) -> None:
        assert self._store is not None
        if self._store.check(["verdict"]):
            self._verdict = self._verdict or {
                **json.loads(self._store.get("verdict")),
                "own": False,
            }
            return
        if self._store.check(["first is done"]):
            self._first_is_done.set()
            return
        if (ended := self.ended_child()) is not None:
            number, status = ended
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            self._tell(f"{self._name(number)} {how}{self._state(number)}", status=Lost.status)
        now = time.monotonic()
        silence = min(self.silence, _SOON) if self._somebody_left else self.silence
        for other in range(self.processes) if self.rank == 0 else (0,):
            counter = self._store.add(f"beat/{other}", 0)
            before, moved = self._beats[other]
            self._beats[other] = (counter, moved if counter == before else now)
            # Who has not come yet may still be on the way: the process group waits for it.
            if counter and now - self._beats[other][1] > silence and other != self.rank:
                self._tell(
                    f"{self._name(other)} has given no sign of life for {silence:g} s{self._state(other)}",
                    status=Lost.status,
                )
        if self._stuck:
            self._tell(self._who_is_behind(), status=Lost.status)

    def _tell(self, message: str, *, status: int, told: bool = False) -> None:
        """The first who says something is who is heard."""
        assert self._store is not None
        self._store.compare_set(
            "verdict", "", json.dumps({"message": message, "status": status, "told": told})
        )

    def _state(self, number: int) -> str:
        assert self._store is not None
        if not self._store.check([f"state/{number}"]):
            return ""
        step, place, _ = json.loads(self._store.get(f"state/{number}"))
        return f" (step {step}, {place})" if step else f" ({place})"

    def _who_is_behind(self) -> str:
        assert self._store is not None
        states = [
            json.loads(self._store.get(f"state/{number}")) for number in range(self.processes)
        ]
        order = [(step, (*_PLACES, place).index(place), passes) for step, place, passes in states]
        behind = [number for number in range(self.processes) if order[number] == min(order)]
        step, place, _ = states[behind[0]]
        if len(behind) == self.processes:
            return f"all processes have been in step {step}, {place}, for {self.timeout:g} s (trainer.timeout): is the network up?"
        names = ", ".join(self._name(number) for number in behind[:8])
        return f"{names}: in step {step}, {place}, for {self.timeout:g} s (trainer.timeout) while the others wait"

    def _who(self) -> str:
        return f"rank {self.rank} ({socket.gethostname()}, process {os.getpid()})"

    def _name(self, number: int) -> str:
        assert self._store is not None
        return (
            self._store.get(f"who/{number}").decode()
            if self._store.check([f"who/{number}"])
            else f"rank {number}"
        )

    # --- the watch: never waits for anything --------------------------------------------------------------------------------

    def _watch(self) -> None:
        last = time.monotonic()
        heard: float | None = None
        while not self._over.wait(self.interval / 2):
            now = time.monotonic()
            if (
                now - last > self.silence / 2
            ):  # this process was stopped itself: what it has missed says nothing of others
                self._exchanged = self._since = now
                self._beats = [(counter, now) for counter, _ in self._beats]
            last = now
            if now - self._exchanged > self.silence + 2 * self.interval and self._verdict is None:
                self._decide(f"{self._first_is} has given no sign of life for {self.silence:g} s")
            if self._place not in _NEVER_STUCK and now - self._since > self.timeout:
                self._stuck = True
            if self._verdict is not None:
                heard = heard or now
                if now - heard > _GRACE:
                    self._end()

    def _decide(self, message: str) -> None:
        self._verdict = {"message": message, "status": Lost.status, "told": False, "own": True}

    def _end(self) -> None:
        if self._over.is_set():
            return
        assert self._verdict is not None
        if self._is_to_speak():
            print(f"align_train: {self._verdict['message']}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(self._verdict["status"])
