"""Fetching ahead: which shards the lanes of a rank need, from when to when; and the process that brings them before that.

A lane draws from one window at a time, and needs all shards of a window from its first position on. While it is in one
window, the new shards of the next are fetched one after the other, spread evenly; and since the lanes' first windows are cut
at different lengths, so are their fetches: the network sees a level load, not a burst. Positions are those of the order (pairs
that each lane has given); the plan is a pure function of it, and `benchmarks/order.py` simulates it at 75,000 shards.
"""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.manifest import Manifest
from align_train.shards.tar_index import load_index
from align_train.stream.order import Order

_RENEW_EVERY = 5.0  # seconds between marks that shards are in use
_PAUSE = 0.05
_LANES_LOOKED_AT = 64


def leave_signals_to_the_run() -> None:
    """In a process that works for a run: Ctrl-C and a scheduler's signals reach the whole group, and the run still needs this
    process to finish its step. SIGTERM counts where the run itself sends it, when it ends."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # left to the thread

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    Thread(target=wait, daemon=True).start()


@dataclass(frozen=True, order=True)
class Fetch:
    """One shard for one lane: fetched from position `release` on, needed from `need` to `last` (exclusive)."""

    release: float
    need: int
    last: int
    lane: int
    shard: int


def fetches_of_lane(order: Order, lane: int, position: int) -> Iterator[Fetch]:
    """What a lane needs from a position on, in the order of release, without end. Shards that it goes on needing come again
    with each window: to be marked as in use."""
    window = order.window_at(lane, position)
    before: tuple[int, ...] = ()
    begin = position  # of the window before: where the fetches for this one are spread from
    while True:
        following = order.window_at(lane, window.last)
        need = max(window.first, position)
        new = [shard for shard in window.shards if shard not in before]
        kept = [shard for shard in window.shards if shard in before]
        for number, shard in enumerate([*new, *kept]):
            release = begin + (need - begin) * min(number / max(len(new), 1), 1)
            yield Fetch(
                release,
                need,
                following.last if shard in following.shards else window.last,
                lane,
                shard,
            )
        before, begin, window = window.shards, need, following


def fetches(order: Order, lanes: Sequence[int], position: int) -> Iterator[Fetch]:
    """The same of several lanes, merged by release."""
    return heapq.merge(*(fetches_of_lane(order, lane, position) for lane in lanes))


def space_needed(
    order: Order, sizes: NDArray[np.int64], lanes: Sequence[int], *, epochs: int = 1
) -> int:
    """Bytes of the shards that lanes hold at the same time at most: each its window and the next, a shard of two lanes once.

    Looks at the windows of the first `epochs` epochs; lanes are taken to be at the same share of their lane. Of many lanes,
    which are alike, a contiguous part is looked at.
    """
    if len(lanes) > _LANES_LOOKED_AT:
        part = space_needed(order, sizes, lanes[:_LANES_LOOKED_AT], epochs=epochs)
        return min(part * len(lanes) // _LANES_LOOKED_AT, int(sizes.sum()))
    most = 0
    current = [order.window_at(lane, 0) for lane in lanes]
    following = [
        order.window_at(lane, window.last) for lane, window in zip(lanes, current, strict=True)
    ]
    end = epochs * max(source.lane_length for source in order.sources)
    position = 0
    while position < end:
        held = {
            shard for pair in (current, following) for window in pair for shard in window.shards
        }
        most = max(most, int(sizes[list(held)].sum()))
        position = min(window.last for window in current)
        for number, lane in enumerate(lanes):
            if current[number].last <= position:
                current[number] = following[number]
                following[number] = order.window_at(lane, following[number].last)
    return most


class FetchAhead:
    """A process of each rank that brings shards to the node's stage before its workers ask for them.

    Only a help: what it could not bring, workers fetch themselves, and it is they who raise. It ends with its parent.
    """

    def __init__(
        self,
        *,
        stage: ShardCache,
        manifest: Manifest,
        order: Order,
        lanes: Sequence[int],
        cursor: int,
    ) -> None:
        self.stage, self.manifest, self.order, self.lanes = stage, manifest, order, lanes
        self._position: Any = multiprocessing.Value(ctypes.c_int64, cursor // order.lanes)
        self._process: Any = None

    def at(self, cursor: int) -> None:
        """Tells how many pairs of the order have been consumed; starts the process the first time."""
        self._position.value = cursor // self.order.lanes
        if self._process is None:
            context = multiprocessing.get_context("fork")
            self._process = context.Process(target=self._run, args=(os.getpid(),), daemon=True)
            self._process.start()

    def follow(self, order: Order) -> None:
        """Goes on under another order of the same lanes, from the next `at` on."""
        self.stop()
        self.order = order

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def _run(self, parent: int) -> None:
        leave_signals_to_the_run()
        plan = fetches(self.order, self.lanes, self._position.value)
        waiting = next(plan)
        in_use: dict[int, int] = {}
        pool = ThreadPoolExecutor(self.stage.fetches)
        running: list[Future[None]] = []
        renewed = 0.0
        while os.getppid() == parent:
            position = self._position.value
            running = [future for future in running if not future.done()]
            while waiting.release <= position and len(running) < self.stage.fetches:
                in_use[waiting.shard] = max(waiting.last, in_use.get(waiting.shard, 0))
                if waiting.last > position and not self._there(waiting.shard):
                    running.append(pool.submit(self._bring, waiting.shard))
                waiting = next(plan)
            if time.monotonic() - renewed > _RENEW_EVERY:
                in_use = {shard: last for shard, last in in_use.items() if last > position}
                self.stage.renew([self.manifest.shards[shard].url for shard in in_use])
                renewed = time.monotonic()
            time.sleep(_PAUSE)
        os._exit(0)  # threads may hang in a fetch

    def _there(self, shard: int) -> bool:
        url = self.manifest.shards[shard].url
        return not self.stage.wants(url) or self.stage.place(url).exists()

    def _bring(self, shard: int) -> None:
        row = self.manifest.shards[shard]
        with contextlib.suppress(UserError, OSError):
            path = self.stage.local(row.url, row.bytes)
            load_index(path)
