"""One rank's batches, in their order, without end.

Worker processes make the rank's chunks; the loader puts them together. Which chunks those are
follows from the step alone (`ChunkSchedule`), so the number of workers changes nothing but the
speed. A shard that has vanished in mid-run does not raise here: the ranks must first agree on the
step from which they do without it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from torch.utils.data import DataLoader, Sampler

from align_train.cluster.collectives import settle_before_fork
from align_train.stream.ahead import FetchAhead
from align_train.stream.batch import Batch, Chunk
from align_train.stream.chunks import TrainingChunks
from align_train.stream.order import Order
from align_train.stream.replacement import BadPair, Gone
from align_train.stream.signals import leave_signals_to_the_run

_ENDLESS = 2**62  # steps


class ChunkSchedule(Sampler[tuple[int, int]]):
    """The (finished steps, chunk index) of one rank's chunks, without end.

    A rank has a contiguous range of each global batch.
    """

    def __init__(self, *, finished_steps: int, first_chunk: int, chunks_per_step: int) -> None:
        """Begins at a step.

        Args:
            finished_steps: Steps before the first batch.
            first_chunk: Index, in the global batch, of the rank's first chunk.
            chunks_per_step: The rank's chunks in each step.
        """
        self.finished_steps = finished_steps
        self.first_chunk = first_chunk
        self.chunks_per_step = chunks_per_step

    def __iter__(self) -> Iterator[tuple[int, int]]:
        finished_steps = self.finished_steps
        while True:
            for index in range(self.first_chunk, self.first_chunk + self.chunks_per_step):
                yield finished_steps, index
            finished_steps += 1


class TrainingLoader:
    """The batches of one rank.

    Attributes:
        bad_pairs: Pairs that were replaced, until the run has written them down and removes them.
        gone: Shards that the next batch needs and that have vanished. No batch comes before `drop`.
    """

    def __init__(
        self,
        *,
        chunks: TrainingChunks,
        schedule: ChunkSchedule,
        workers: int,
        pin_memory: bool,
        steps: int = _ENDLESS,
        ahead: FetchAhead | None = None,
    ) -> None:
        """Starts no process yet.

        Args:
            chunks: Makes chunks.
            schedule: The rank's chunks.
            workers: Processes that make chunks; 0: this process makes them.
            pin_memory: Put batches into page-locked memory, for a GPU.
            steps: Steps of a whole run. Without it Lightning would ask for one batch more before
                each step, to see whether the step is the last.
            ahead: Fetches shards before they are needed.
        """
        self.chunks = chunks
        self.schedule = schedule
        self.workers = workers
        self.pin_memory = pin_memory
        self.steps = steps
        self.ahead = ahead
        self.bad_pairs: list[BadPair] = []
        self.gone: set[int] = set()

        self._finished_steps = schedule.finished_steps
        self._made: Iterator[tuple[Chunk, list[BadPair]] | Gone] | None = None
        self._ready: Batch | None = None

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self.prepare()
        batch = self._ready
        assert batch is not None, f"shards {sorted(self.gone)} have vanished and were not dropped"

        self._ready = None
        self._finished_steps += 1
        return batch

    def prepare(self) -> None:
        """Waits for the next batch, or for the news that it needs shards that have vanished."""
        if self._ready is not None or self.gone:
            return

        asked = time.perf_counter()
        if self._made is None:
            self._made = self._start_workers()
        if self.ahead is not None:
            self.ahead.at(self.chunks.cursor(self._finished_steps))

        # All of the step's chunks, even after one that is `Gone`: the ranks then agree once on all
        # shards that have vanished.
        chunks: list[Chunk] = []
        bad_pairs: list[BadPair] = []
        for _ in range(self.schedule.chunks_per_step):
            made = next(self._made)
            if isinstance(made, Gone):
                self.gone.add(made.shard)
            else:
                chunks.append(made[0])
                bad_pairs += made[1]
        if self.gone:
            return

        self.bad_pairs += bad_pairs
        wait = time.perf_counter() - asked
        self._ready = Batch(finished_steps=self._finished_steps, chunks=chunks, wait=wait)

    def drop(self, order: Order) -> None:
        """Goes on at the next step under an order without the shards that have vanished."""
        self.chunks.order = order
        self.gone = set()
        # Workers have made chunks ahead, under the order of before: these do not count.
        self.bad_pairs = [pair for pair in self.bad_pairs if pair.step <= self._finished_steps]
        self._made = None
        self._ready = None
        if self.ahead is not None:
            self.ahead.follow(order)

    def close(self) -> None:
        """Ends the processes that make chunks and fetch ahead."""
        # DataLoader ends its workers when its iterator goes.
        self._made = None
        if self.ahead is not None:
            self.ahead.stop()
            self.chunks.pairs.cache.sweep()

    def _start_workers(self) -> Iterator[tuple[Chunk, list[BadPair]] | Gone]:
        per_step = self.schedule.chunks_per_step
        schedule = ChunkSchedule(
            finished_steps=self._finished_steps,
            first_chunk=self.schedule.first_chunk,
            chunks_per_step=per_step,
        )
        # Two steps ahead, at least two chunks a worker. DataLoader refuses it without workers.
        prefetch = max(2, 2 * per_step // self.workers) if self.workers else None

        loader = DataLoader(
            self.chunks,
            sampler=schedule,
            batch_size=None,  # an item is a whole chunk already
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            prefetch_factor=prefetch,
            worker_init_fn=lambda worker: leave_signals_to_the_run(),
        )
        settle_before_fork()
        return iter(loader)
