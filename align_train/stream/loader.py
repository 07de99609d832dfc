"""One rank's batches, in their order, without end.

Worker processes make the rank's pairs in *pieces* (`piece_schedule.py`); the loader puts them
together. The step alone decides which pairs these are. The number of workers changes only the
speed, and the loader knows nothing of chunks. A shard that has vanished in mid-run does not raise
here: the ranks must first agree on the step from which they do without it.

If a signal ends the run while it waits for data, the loader hands over a *blank* batch: the other
ranks may have theirs, and wait for this rank in the step. All of them then leave the step undone
(`training/callbacks/agreement.py`).

Pixels go into memory that the processes share (`arena.py`); the rest of a piece comes through a
queue, 5 to 15 kB. Price beside the arena: about one step is made ahead; token ids, keys and
captions of a batch are put together in the run's process, 0.1 ms for 2,048 pairs.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from align_train.errors import Interrupted
from align_train.stream.ahead import FetchAhead
from align_train.stream.arena import Arena
from align_train.stream.batch import Batch
from align_train.stream.order import Order
from align_train.stream.piece_schedule import (
    PieceSchedule,
    PiecesIntoArena,
    piece_count,
    regions_needed,
)
from align_train.stream.pieces import Piece, TrainingPieces
from align_train.stream.replacement import BadPair, Gone
from align_train.stream.token_ids import PAD
from align_train.stream.workers import Workers

_ENDLESS = 2**62  # steps


class TrainingLoader:
    """The batches of one rank.

    Attributes:
        bad_pairs: Pairs that were replaced, until the run has written them down and removes them.
        gone: Shards that the next batch needs and that have vanished. No batch comes before `drop`.
    """

    def __init__(
        self,
        *,
        pieces: TrainingPieces,
        slots: range,
        workers: int,
        page_lock: bool = False,
        steps: int = _ENDLESS,
        max_tokens: int = 1,
        ahead: FetchAhead | None = None,
    ) -> None:
        """Begins at the start of `pieces`. Starts no process yet, and takes no memory.

        Args:
            pieces: Makes pairs.
            slots: The rank's places in each global batch.
            workers: Processes that make pairs; 0: this process makes them.
            page_lock: Hand over images in page-locked memory, for a GPU.
            steps: Steps of a whole run. Without it Lightning would ask for one batch more before
                each step, to see whether the step is the last.
            max_tokens: Tokens of the longest texts; 1 for a classifier.
            ahead: Fetches shards before they are needed.
        """
        self.pieces = pieces
        self.slots = slots
        self.workers = workers
        self.page_lock = page_lock
        self.steps = steps
        self.max_tokens = max_tokens
        self.ahead = ahead
        self.bad_pairs: list[BadPair] = []
        self.gone: set[int] = set()

        self._finished_steps = pieces.start.finished_steps
        self._made: Workers[Piece | Gone] | None = None
        self._interrupted = False
        self._arena: Arena | None = None
        self._ready: Batch | None = None
        self._copied: torch.cuda.Event | None = None

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self.prepare()
        if self._interrupted:
            return self._blank()
        batch = self._ready
        assert batch is not None, f"shards {sorted(self.gone)} have vanished and were not dropped"

        self._ready = None
        self._finished_steps += 1
        if self.page_lock:
            # All copies of the batch before this one have been asked for.
            self._copied = torch.cuda.current_stream().record_event()
        return batch

    def prepare(self) -> None:
        """Waits for the next batch, or for the news that it needs shards that have vanished.

        A signal that ends the run ends the wait too. The batch before it stays as it is; the one
        before that is overwritten.
        """
        if self._ready is not None or self.gone or self._interrupted:
            return

        if self._copied is not None:
            # The host may be ahead of the GPU, which has then not read what is overwritten now.
            self._copied.synchronize()
        asked = time.perf_counter()
        if self._made is None:
            self._made = self._start_workers()
        if self.ahead is not None:
            self.ahead.at(self.pieces.cursor(self._finished_steps))

        # All of the step's pieces, even after one that is `Gone`: the ranks then agree once on all
        # shards that have vanished.
        pieces: list[Piece] = []
        try:
            for _ in range(piece_count(self.slots)):
                made = next(self._made)
                if isinstance(made, Gone):
                    self.gone.add(made.shard)
                else:
                    pieces.append(made)
        except Interrupted:
            self._interrupted = True
            self.gone = set()
        if self.gone or self._interrupted:
            return

        for piece in pieces:
            self.bad_pairs += piece.bad_pairs
        self._ready = self._batch_of(pieces, asked)

    def drop(self, order: Order) -> None:
        """Goes on at the next step under an order without the shards that have vanished."""
        self.pieces.order = order
        self.gone = set()
        # Workers have made pairs ahead, under the order of before: these do not count.
        self.bad_pairs = [pair for pair in self.bad_pairs if pair.step <= self._finished_steps]
        self._end_workers()
        if self.ahead is not None:
            self.ahead.follow(order)

    def close(self) -> None:
        """Ends the processes that make pairs and fetch ahead, and gives the memory back."""
        self._end_workers()
        if self.ahead is not None:
            self.ahead.stop()
            self.pieces.pairs.cache.sweep()

    def _batch_of(self, pieces: list[Piece], asked: float) -> Batch:
        assert self._arena is not None
        lengths = np.concatenate([piece.lengths for piece in pieces])
        width = max(piece.input_ids.shape[1] for piece in pieces)
        ids = np.full((len(lengths), width), PAD, dtype=np.int32)

        keys: list[str] = []
        captions: list[str] = []
        for piece in pieces:
            rows = slice(len(keys), len(keys) + len(piece.keys))
            ids[rows, : piece.input_ids.shape[1]] = piece.input_ids
            keys += piece.keys
            captions += piece.captions

        # A run asks for them of every piece, or of none.
        content_ids = [piece.content_ids for piece in pieces if piece.content_ids is not None]
        teacher = None
        if self.pieces.teacher is not None:
            parts = [piece.teacher for piece in pieces if piece.teacher is not None]
            teacher = self._on_host(self.pieces.teacher.joined(parts))
        return Batch(
            finished_steps=self._finished_steps,
            first=self.slots.start,
            images=torch.from_numpy(self._arena.region(self._finished_steps)),
            input_ids=self._on_host(ids),
            lengths=lengths,
            keys=keys,
            captions=captions,
            content_ids=self._on_host(np.hstack(content_ids)) if content_ids else None,
            wait=time.perf_counter() - asked,
            teacher=teacher,
        )

    def _blank(self) -> Batch:
        """A batch of no pairs of the data, as large as any."""
        assert self._arena is not None
        count = len(self.slots)
        # As in trials of the chunk size: an index that every vocabulary has, in the longest texts,
        # for which the model is compiled.
        ids = np.full((count, self.max_tokens), int(self.max_tokens > 1), dtype=np.int32)
        content_ids = None
        if self.pieces.pairs.content_ids:
            content_ids = torch.zeros((2, count), dtype=torch.int64)
        teacher = None
        if self.pieces.teacher is not None:
            teacher = torch.from_numpy(self.pieces.teacher.blank(count))
        return Batch(
            finished_steps=self._finished_steps,
            first=self.slots.start,
            images=torch.from_numpy(self._arena.region(self._finished_steps)),
            input_ids=torch.from_numpy(ids),
            lengths=np.full(count, self.max_tokens, dtype=np.int64),
            keys=[""] * count,
            captions=[""] * count,
            content_ids=content_ids,
            blank=True,
            teacher=teacher,
        )

    def _on_host(self, values: NDArray[np.generic]) -> Tensor:
        """The values as a tensor, page-locked for a GPU."""
        tensor = torch.from_numpy(values)
        # From ordinary memory a copy to the GPU would wait for all that the GPU has to do.
        return tensor.pin_memory() if self.page_lock else tensor

    def _start_workers(self) -> Workers[Piece | Gone]:
        # About one step ahead, at least two pieces a worker.
        of_step = piece_count(self.slots)
        prefetch = max(2, of_step // self.workers) if self.workers else 0
        regions = regions_needed(of_step, self.workers * prefetch)
        # Memory of their own for these workers: those before them may still be writing, and the
        # run may still be reading.
        self._arena = Arena(regions=regions, shape=self.pieces.shape(len(self.slots)))

        made: Workers[Piece | Gone] = Workers(
            PiecesIntoArena(self.pieces, self._arena, self.slots),
            sampler=PieceSchedule(self._finished_steps, self.slots),
            batch_size=None,  # an item is a whole piece already
            collate=_as_it_is,
            workers=self.workers,
            prefetch=prefetch,
            setting="data.workers",
        )
        made.start()
        if self.page_lock and not self._arena.page_lock():
            self.page_lock = False  # so the warning comes once
            warnings.warn(
                "CUDA cannot page-lock the loader's memory: copies to the GPU block the run; check "
                "`ulimit -l`",
                stacklevel=2,
            )
        return made

    def _end_workers(self) -> None:
        if self._made is not None:
            self._made.close()
        self._made = None
        self._ready = None
        self._arena = None


def _as_it_is(made: object) -> object:
    # DataLoader's own function would make tensors of arrays, each with a file descriptor.
    return made
