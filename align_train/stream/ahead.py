"""The process that brings shards to the node's shard cache before workers ask for them.

It follows the plan of `fetch_plan.py`. It is a help only: a worker fetches for itself any shard
that is missing, and it is the worker that raises if it cannot.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.context import ForkProcess

import numpy as np

from align_train.cluster.signals import leave_signals_to_the_run
from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.manifest import Manifest
from align_train.shards.tar_index import load_index
from align_train.stream.fetch_plan import fetches
from align_train.stream.order import Order

_RENEW_EVERY = 5.0  # seconds between marks that shards are in use
_PAUSE = 0.05  # seconds between looks at the run's position


class FetchAhead:
    """A rank's process that fetches ahead. It ends with its parent."""

    def __init__(
        self,
        *,
        cache: ShardCache,
        manifest: Manifest,
        order: Order,
        lanes: Sequence[int],
        cursor: int,
    ) -> None:
        """Starts no process yet.

        Args:
            cache: Where shards are brought to.
            manifest: The shards.
            order: The order, which says when they are needed.
            lanes: The rank's lanes.
            cursor: Pairs of the order that are consumed, by all ranks.
        """
        self.cache = cache
        self.manifest = manifest
        self.order = order
        self.lanes = lanes
        # In memory that the two processes share. Not `multiprocessing.Value`: that takes it from
        # /dev/shm, or from TMPDIR.
        self._position = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), dtype=np.int64)
        self._position[0] = cursor // order.lanes
        self._process: ForkProcess | None = None

    def at(self, cursor: int) -> None:
        """Reports the pairs of the order that are consumed; starts the process the first time."""
        self._position[0] = cursor // self.order.lanes
        if self._process is None:
            # Forked: the manifest and the order, which may be large, are shared, not copied.
            context = multiprocessing.get_context("fork")
            self._process = context.Process(target=self._run, args=(os.getpid(),), daemon=True)
            self._process.start()

    def follow(self, order: Order) -> None:
        """Goes on under another order of the same lanes, from the next `at` on."""
        self.stop()
        self.order = order

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def _run(self, parent: int) -> None:
        leave_signals_to_the_run()
        plan = fetches(self.order, self.lanes, int(self._position[0]))
        waiting = next(plan)
        needed_until: dict[int, int] = {}  # by shard, the last position that needs it
        pool = ThreadPoolExecutor(self.cache.fetches)
        running: list[Future[None]] = []
        renewed = 0.0

        while os.getppid() == parent:
            position = int(self._position[0])
            running = [future for future in running if not future.done()]
            while waiting.release <= position and len(running) < self.cache.fetches:
                shard = waiting.shard
                needed_until[shard] = max(waiting.last, needed_until.get(shard, 0))
                # After a resume the plan begins in mid-window: some fetches are over already.
                if waiting.last > position and not self._is_here(shard):
                    running.append(pool.submit(self._bring, shard))
                waiting = next(plan)

            if time.monotonic() - renewed > _RENEW_EVERY:
                needed_until = {
                    shard: last for shard, last in needed_until.items() if last > position
                }
                self.cache.renew([self.manifest.shards[shard].url for shard in needed_until])
                renewed = time.monotonic()
            time.sleep(_PAUSE)

        os._exit(0)  # a thread may hang in a fetch, and an ordinary exit would wait for it

    def _is_here(self, shard: int) -> bool:
        url = self.manifest.shards[shard].url
        return not self.cache.wants(url) or self.cache.path_of(url).exists()

    def _bring(self, shard: int) -> None:
        row = self.manifest.shards[shard]
        # Errors are the workers' to raise. The index is built here too, while nobody waits for it.
        with contextlib.suppress(UserError, OSError):
            path = self.cache.local(row.url, row.bytes)
            load_index(path)
