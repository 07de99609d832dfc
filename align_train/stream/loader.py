from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Sampler

from align_train.cluster.collectives import settle_before_fork
from align_train.stream.ahead import FetchAhead, leave_signals_to_the_run
from align_train.stream.batch import Batch, Chunk
from align_train.stream.chunks import TrainingChunks
from align_train.stream.order import Order
from align_train.stream.pairs import BadPair, Gone


class ChunkSchedule(Sampler[tuple[int, int]]):
    """The (step, chunk number) of one rank, from `first_step` on, without end: a contiguous range of each global batch."""

    def __init__(self, *, first_step: int, first_chunk: int, chunks_per_step: int) -> None:
        self.first_step, self.first_chunk, self.chunks_per_step = (
            first_step,
            first_chunk,
            chunks_per_step,
        )

    def __iter__(self) -> Iterator[tuple[int, int]]:
        step = self.first_step
        while True:
            for number in range(self.first_chunk, self.first_chunk + self.chunks_per_step):
                yield step, number
            step += 1


class TrainingLoader:
    """Batches for one rank, endless: worker processes make chunks, this puts them together.

    steps: how many a whole run has, or Lightning would ask for one more before each step to see whether it is the last.
    ahead: fetches shards before they are needed. bad_pairs: what was replaced since it was last emptied by whoever writes it
    down. gone: shards that have vanished, so that the next batch cannot be made until `drop` is called.
    """

    def __init__(
        self,
        *,
        chunks: TrainingChunks,
        schedule: ChunkSchedule,
        workers: int,
        pin_memory: bool,
        steps: int = 2**62,
        ahead: FetchAhead | None = None,
    ) -> None:
        self.chunks, self.schedule, self.workers, self.pin_memory = (
            chunks,
            schedule,
            workers,
            pin_memory,
        )
        self.steps, self.ahead = steps, ahead
        self.bad_pairs: list[BadPair] = []
        self.gone: set[int] = set()
        self._step = schedule.first_step
        self._made: Iterator[tuple[Chunk, list[BadPair]] | Gone] | None = None
        self._ready: Batch | None = None

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self.prepare()
        batch, self._ready = self._ready, None
        assert batch is not None, f"shards {sorted(self.gone)} have vanished and were not dropped"
        self._step += 1
        return batch

    def prepare(self) -> None:
        """Waits until the next batch is there, or is known to need shards that have vanished."""
        if self._ready is not None or self.gone:
            return
        asked = time.perf_counter()
        if self._made is None:
            self._made = self._start()
        if self.ahead is not None:
            self.ahead.at(self.chunks.cursor(self._step))
        found = [next(self._made) for _ in range(self.schedule.chunks_per_step)]
        self.gone = {item.shard for item in found if isinstance(item, Gone)}
        if self.gone:
            return
        whole = [item for item in found if not isinstance(item, Gone)]
        self.bad_pairs += [pair for _, bad in whole for pair in bad]
        self._ready = Batch(
            step=self._step, chunks=[chunk for chunk, _ in whole], wait=time.perf_counter() - asked
        )

    def drop(self, order: Order) -> None:
        """Goes on at the next step under an order that does without the shards that have vanished."""
        self.chunks.order = order
        self.gone = set()
        self.bad_pairs = [pair for pair in self.bad_pairs if pair.step <= self._step]
        self._made = self._ready = (
            None  # what workers have made ahead was made under the order of before
        )
        if self.ahead is not None:
            self.ahead.follow(order)

    def close(self) -> None:
        """Ends the processes that make and fetch ahead."""
        self._made = None
        if self.ahead is not None:
            self.ahead.stop()
            self.chunks.pairs.stage.sweep()

    def _start(self) -> Iterator[tuple[Chunk, list[BadPair]] | Gone]:
        per_step = self.schedule.chunks_per_step
        options: dict[str, Any] = (
            {"prefetch_factor": max(2, 2 * per_step // self.workers)} if self.workers else {}
        )
        schedule = ChunkSchedule(
            first_step=self._step, first_chunk=self.schedule.first_chunk, chunks_per_step=per_step
        )
        loader = DataLoader(
            self.chunks,
            sampler=schedule,
            batch_size=None,
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            worker_init_fn=lambda worker: leave_signals_to_the_run(),
            **options,
        )
        settle_before_fork()
        return iter(loader)
