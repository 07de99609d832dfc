"""When a process of the run dies or hangs, all others end, and say which one it was.

A collective cannot tell: where one rank is missing, all others wait. So each process gives a sign of life through the store by
which the process group was formed (a counter, and where its main thread is), and three things end a run:

- *told*: a process that ends by an error leaves its message there; the others end with it.
- *silent*: a process that gives no sign for `silence` seconds is dead, frozen (SIGSTOP, a machine that swaps) or cut off.
  Rank 0 looks at all, all look at rank 0, which keeps the store (or torchrun, on its machine). Where a collective has told that
  somebody is gone, a few seconds of silence say who.
- *stuck*: processes live, but nobody has got anywhere for `timeout` seconds: those that are behind the others are named.

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
from torch._C._distributed_c10d import PrefixStore, TCPStore

from align_train.distributed import rank, world_size
from align_train.errors import Lost, UserError
from align_train.module import TrainingModule

_PLACES = ("starting", "waiting for data", "forward pass", "backward pass")
_GRACE = 5.0  # seconds in which a process may end by itself before a message that another left ends it
_SOON = 5.0  # seconds of silence that tell who is gone, where somebody is
_NEVER_STUCK = ("starting", "evaluating")  # takes as long as it takes


class Watchdog(Callback):
    """silence, timeout: seconds, see above. Does nothing where there is one process only. Stands last in the trainer's list.

    `watching` goes around the fit and what follows it: within, an error is told to the others, and at its end all wait for
    rank 0, which may have more to do: so a launcher may end processes that stay when others have gone. `explain` says which
    process is to blame for an error that is none of this one's.
    """

    def __init__(self, *, silence: float, timeout: float) -> None:
        self.silence, self.timeout = silence, timeout
        self.interval = min(1.0, silence / 6)
        self.ended_child: Callable[[], tuple[int, int] | None] = lambda: None
        self.formed = False  # whether the process group is
        self._store: PrefixStore | None = None
        self._over, self._first_is_done = Event(), Event()
        self._verdict: dict[str, Any] | None = None
        self._step, self._place, self._passes, self._since = 0, "starting", 0, time.monotonic()
        self._exchanged = time.monotonic()
        self._stuck = self._somebody_left = False
        self._beats: list[tuple[int, float]] = []  # of each rank: its counter, and when that last moved
        self._first_is = "rank 0"
        self._threads: list[Thread] = []

    # --- where this process is: set by the loop, told with each sign of life ------------------------------------------------

    def at(self, place: str, step: int | None = None) -> None:
        self._place, self._passes, self._since = place, 0, time.monotonic()
        self._step = self._step if step is None else step

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        module.model.register_forward_hook(self._pass_done)  # of a chunk: collectives come after the last
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

    def setup(self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str) -> None:
        self.formed = True
        if world_size() == 1:
            return
        launcher: Any = trainer.strategy.launcher
        self.ended_child = lambda: getattr(launcher, "ended", None)
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=max(self.silence, 10)),
        )
        # torchrun keeps its store from one start of the processes to the next.
        self._store = PrefixStore(f"align_train/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        self._store.set(f"who/{rank()}", self._who())
        self._beats = [(0, time.monotonic())] * world_size()
        self._first_is = self._store.get("who/0").decode()
        self._exchanged = time.monotonic()
        self._threads = [Thread(target=target, daemon=True) for target in (self._exchange, self._watch)]
        for thread in self._threads:
            thread.start()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        try:
            yield
            self.at("evaluating")
            if self._store is not None and rank() != 0:
                self._first_is_done.wait()
        except UserError as error:
            if not isinstance(error, Lost):
                self._leave(str(error), error.status)
            raise
        except Exception as error:
            self._leave(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", 1)
            raise
        finally:
            self._leave()

    def _leave(self, message: str = "", status: int = 0) -> None:
        """Ends the threads. Rank 0, which keeps the store, stays until the others have heard, or have had time to."""
        if self._store is None or self._over.is_set():
            return
        self._over.set()
        with contextlib.suppress(Exception):
            if message:
                self._tell(f"{self._who()} ended: {message}", status=status, told=True)
            if rank() == 0:
                self._store.set("first is done", "")
            left = self._store.add("left", 1)
            deadline = time.monotonic() + 4 * self.interval
            while rank() == 0 and left < world_size() and time.monotonic() < deadline:
                time.sleep(self.interval / 10)
                left = self._store.add("left", 0)

    def explain(self) -> UserError:
        """Which process is to blame for an error of the kind "the other side is gone". Waits until that is known."""
        self._somebody_left = True
        deadline = time.monotonic() + self.silence + 8 * self.interval
        while self._verdict is None and time.monotonic() < deadline:
            time.sleep(self.interval / 10)
        if self._verdict is None:
            return Lost("another process of this run ended, and so does this one; which one it was is not known")
        return Lost(self._verdict["message"], status=self._verdict["status"])

    # --- the exchange: the only thread that uses the store ------------------------------------------------------------------

    def _exchange(self) -> None:
        assert self._store is not None
        beaten = 0
        while not self._over.wait(self.interval):
            try:
                beaten += 1
                self._store.set(f"state/{rank()}", json.dumps([self._step, self._place, self._passes]))
                self._store.add(f"beat/{rank()}", 1)
                self._look()
            except Exception:  # whatever the store raises: it is gone, and with it who kept it
                if not self._over.is_set() and self._verdict is None:
                    self._decide(f"{self._first_is} is gone", status=Lost.status)
                return
            self._exchanged = time.monotonic()

    def _look(self) -> None:
        assert self._store is not None
        if self._store.check(["verdict"]):
            self._verdict = self._verdict or json.loads(self._store.get("verdict"))
            return
        if self._store.check(["first is done"]):
            self._first_is_done.set()
            return
        if (ended := self.ended_child()) is not None:
            number, status = ended
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            self._tell(f"{self._name(number)} {how}", status=Lost.status)
        now = time.monotonic()
        for other in range(world_size()) if rank() == 0 else (0,):
            counter = self._store.add(f"beat/{other}", 0)
            before, moved = self._beats[other]
            self._beats[other] = (counter, moved if counter == before else now)
            silence = min(self.silence, _SOON) if self._somebody_left else self.silence
            if now - self._beats[other][1] > silence and other != rank():
                where = self._state(other)
                self._tell(f"{self._name(other)} has given no sign of life for {silence:g} s{where}", status=Lost.status)
        if self._stuck:
            self._tell(self._who_is_behind(), status=Lost.status)

    def _tell(self, message: str, *, status: int, told: bool = False) -> None:
        """The first who says something is who is heard."""
        assert self._store is not None
        verdict = json.dumps({"message": message, "status": status, "told": told})
        self._store.compare_set("verdict", "", verdict)

    def _state(self, number: int) -> str:
        assert self._store is not None
        if not self._store.check([f"state/{number}"]):
            return ""
        step, place, _ = json.loads(self._store.get(f"state/{number}"))
        return f" (step {step}, {place})"

    def _who_is_behind(self) -> str:
        assert self._store is not None
        states = [json.loads(self._store.get(f"state/{number}")) for number in range(world_size())]
        order = [(step, (*_PLACES, place).index(place), passes) for step, place, passes in states]
        behind = [number for number in range(world_size()) if order[number] == min(order)]
        step, place, _ = states[behind[0]]
        if len(behind) == world_size():
            return (
                f"all processes have been in step {step}, {place}, for {self.timeout:g} s (trainer.timeout): is the network up?"
            )
        names = ", ".join(self._name(number) for number in behind[:8])
        return f"{names}: in step {step}, {place}, for {self.timeout:g} s (trainer.timeout) while the others wait"

    def _who(self) -> str:
        return f"rank {rank()} ({socket.gethostname()}, process {os.getpid()})"

    def _name(self, number: int) -> str:
        assert self._store is not None
        return self._store.get(f"who/{number}").decode() if self._store.check([f"who/{number}"]) else f"rank {number}"

    # --- the watch: never waits for anything --------------------------------------------------------------------------------

    def _watch(self) -> None:
        last = time.monotonic()
        heard: float | None = None
        while not self._over.wait(self.interval / 2):
            now = time.monotonic()
            if now - last > self.silence / 2:  # this process was stopped itself: what it has missed says nothing of others
                self._exchanged = self._since = now
                self._beats = [(counter, now) for counter, _ in self._beats]
            last = now
            if now - self._exchanged > self.silence + 2 * self.interval and self._verdict is None:
                self._decide(f"{self._first_is} has given no sign of life for {self.silence:g} s", status=Lost.status)
            if self._place not in _NEVER_STUCK and now - self._since > self.timeout:
                self._stuck = True
            if self._verdict is not None:
                heard = heard or now
                if now - heard > _GRACE:
                    self._end()

    def _decide(self, message: str, *, status: int) -> None:
        self._verdict = {"message": message, "status": status, "told": False}

    def _end(self) -> None:
        if self._over.is_set():
            return
        assert self._verdict is not None
        print(f"align_train: {self._verdict['message']}; rank {rank()} ends with it", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(self._verdict["status"])
