"""Items of many requests, embedded together by one thread.

The thread takes what waits, at most a chunk, once the first item has waited `wait_ms`. Each item
has a future of its own, so that an answer reaches the request that asked, in its order.

If a pass fails, its items are tried again in halves, down to the one that fails alone: its future
gets the error, the others their rows. A row that is not finite is an error as well. So no request
ends the thread. If it ends all the same, all who wait get an error, and `state` says so.

Price: at most `wait_ms` for a request that comes alone. A pass that fails for one item of n is
repeated in about 2·log2(n) smaller ones.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from align_train.serving.refused import Busy, Refused

Row = NDArray[np.float32]
Item = TypeVar("Item")

State = Literal["ok", "stuck", "ended"]
"""Of a thread: it works; one pass takes longer than any should; it is gone."""


@dataclass(frozen=True)
class Batching:
    """How items are put together.

    Attributes:
        chunk_size: Items in one pass.
        wait_ms: Milliseconds that an item waits for others.
        most_waiting: Items that may wait; with more, requests are refused.
        answer_seconds: Seconds after which a request is given up, and a pass counts as stuck.
    """

    chunk_size: int = 32
    wait_ms: float = 5.0
    most_waiting: int = 1024
    answer_seconds: float = 60.0


@dataclass
class _Waiting(Generic[Item]):
    item: Item
    since: float
    answer: Future[Row] = field(default_factory=Future)


def _unobserved(items: int, seconds: float) -> None:
    """Nobody counts the batches."""


class Batcher(Generic[Item]):
    """One thread that embeds the items of all requests for one tower.

    Attributes:
        observe: Called after each pass with its items and its seconds.
        failed: Items that got an error.
    """

    def __init__(
        self, embed: Callable[[list[Item]], Row], *, name: str, batching: Batching
    ) -> None:
        """Starts the thread.

        Args:
            embed: From items to rows `[items, dim]`; called by the thread alone.
            name: Of the thread.
            batching: How items are put together.
        """
        self.batching = batching
        self.observe: Callable[[int, float], None] = _unobserved
        self.failed = 0
        self._embed = embed
        self._waiting: deque[_Waiting[Item]] = deque()
        self._changed = threading.Condition()
        self._busy_since: float | None = None
        self._closing = False
        # A daemon: a pass that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        # Last: the thread uses all that is set above.
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Items that no pass has taken yet."""
        return len(self._waiting)

    @property
    def state(self) -> State:
        """Whether the thread works."""
        if not self._thread.is_alive():
            return "ended"
        since = self._busy_since
        is_stuck = since is not None and time.monotonic() - since > self.batching.answer_seconds
        return "stuck" if is_stuck else "ok"

    def rows(self, items: Sequence[Item], *, of: str, places: Sequence[int] | None = None) -> Row:
        """Embeds items, and waits for them.

        Args:
            items: At least one. More than a chunk are handed over a chunk at a time, so that a
                large request does not keep others waiting.
            of: What they are, for errors: `images`.
            places: Of the items in the request, for errors; None: 0, 1, ….

        Returns:
            `[items, dim]`, in the items' order.

        Raises:
            Refused: An item cannot be embedded; says which.
            Busy: Too many items wait, or the answer takes too long.
        """
        rows: list[Row] = []
        places = places or range(len(items))
        # One deadline for all parts: a large request gets no more time than a small one.
        deadline = time.monotonic() + self.batching.answer_seconds
        for start in range(0, len(items), self.batching.chunk_size):
            part = items[start : start + self.batching.chunk_size]
            # What has been let in goes on: its first parts have left the queue.
            answers = self.submit(part, let_in=start > 0)
            try:
                # Not strict: the places are those of all parts, the answers of this one.
                for place, answer in zip(places[start:], answers, strict=False):
                    rows.append(_answer(answer, deadline, f"{of}[{place}]"))
            finally:
                # If one fails, nobody waits for the others.
                for answer in answers:
                    answer.cancel()
        return np.stack(rows)

    def submit(self, items: Sequence[Item], *, let_in: bool = False) -> list[Future[Row]]:
        """Hands items over.

        Args:
            items: At least one.
            let_in: Whether they are taken however many wait.

        Returns:
            A future for each item; one that is cancelled in time is never embedded.

        Raises:
            Busy: Too many items wait, or the thread has ended.
        """
        since = time.monotonic()
        with self._changed:
            # Under the lock, like `_turn_away`: no item joins the queue of a thread that is gone.
            if self._closing or not self._thread.is_alive():
                raise Busy("the server does not answer any more: the thread that embeds has ended")
            if not let_in and len(self._waiting) + len(items) > self.batching.most_waiting:
                raise Busy(f"{len(self._waiting)} items wait already; ask again later")
            added = [_Waiting(item, since) for item in items]
            self._waiting.extend(added)
            self._changed.notify_all()
        return [waiting.answer for waiting in added]

    def close(self) -> None:
        """Ends the thread after its pass; those that still wait get an error."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        # Not forever: a pass that hangs must not keep the server from ending.
        self._thread.join(self.batching.answer_seconds)

    def _run(self) -> None:
        try:
            while batch := self._next():
                self._embed_all(batch)
        finally:
            self._turn_away()

    def _next(self) -> list[_Waiting[Item]]:
        """Waits for items; none: the thread is to end."""
        with self._changed:
            while True:
                if self._closing:
                    return []
                if not self._waiting:
                    self._changed.wait()
                    continue

                # Counted from when the first item came: what came during a pass goes on at once.
                until = self._waiting[0].since + self.batching.wait_ms / 1000
                left = until - time.monotonic()
                if len(self._waiting) >= self.batching.chunk_size or left <= 0:
                    break
                self._changed.wait(left)

            count = min(len(self._waiting), self.batching.chunk_size)
            return [self._waiting.popleft() for _ in range(count)]

    def _embed_all(self, batch: list[_Waiting[Item]]) -> None:
        # From here on an answer cannot be cancelled; those that were are not embedded.
        claimed = [item for item in batch if item.answer.set_running_or_notify_cancel()]
        if not claimed:
            return
        begun = self._busy_since = time.monotonic()
        try:
            self._embed_or_halve(claimed)
            self.observe(len(claimed), time.monotonic() - begun)
        finally:
            self._busy_since = None
            # Of a thread that ends in here, nobody else would answer these.
            for waiting in claimed:
                if not waiting.answer.done():
                    waiting.answer.set_exception(Busy("the thread that embeds has ended"))

    def _embed_or_halve(self, batch: list[_Waiting[Item]]) -> None:
        try:
            rows = self._embed([waiting.item for waiting in batch])
            # Within the `try`: it counts as a failed pass, so halves find the items that do this.
            if len(rows) != len(batch):
                raise RuntimeError(f"{len(rows)} embeddings for {len(batch)} items")
        except Exception as error:
            # Tried again outside of this block: in it, Python keeps the failed pass's frames alive.
            failure = error
        else:
            for waiting, row in zip(batch, rows, strict=True):
                self._settle(waiting, row)
            return

        if len(batch) == 1:
            self.failed += 1
            # The stack trace is for the server's log; whoever asked gets the error's class.
            traceback.print_exception(failure)
            batch[0].answer.set_exception(failure)
            return
        # Its stack holds the pass's tensors: memory that the halves want.
        failure.__traceback__ = None
        # One bad item must not fail those beside it: halves find it.
        middle = len(batch) // 2
        self._embed_or_halve(batch[:middle])
        self._embed_or_halve(batch[middle:])

    def _settle(self, waiting: _Waiting[Item], row: Row) -> None:
        # JSON has no NaN: one in an answer would fail the items beside it as well.
        if np.isfinite(row).all():
            waiting.answer.set_result(row)
            return
        self.failed += 1
        waiting.answer.set_exception(Refused("the model gives numbers that are not finite"))

    def _turn_away(self) -> None:
        with self._changed:
            # In one step with emptying the queue: `submit` refuses from here on.
            self._closing = True
            while self._waiting:
                answer = self._waiting.popleft().answer
                # A cancelled future takes no exception: to set one would raise here.
                if answer.set_running_or_notify_cancel():
                    answer.set_exception(Busy("the server is ending; ask again later"))


def _answer(answer: Future[Row], deadline: float, item: str) -> Row:
    """Waits for a row, and names the item in its error."""
    try:
        return answer.result(max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        raise Busy(f"{item}: no answer in time; ask again later") from None
    except Busy:
        # No fault of this item, so its name stays out of the line.
        raise
    except Refused as error:
        raise Refused(f"{item}: {error}", code=error.code) from None
    except Exception as error:
        raise Refused(f"{item}: the model fails on it ({type(error).__name__})") from None
