"""The last steps of a pair's way to a chunk, and the chunks' way to the training loop.

A worker is asked for (step, chunk number) and needs nothing else: the order names the pairs, the readers give their bytes,
each is decoded and its text drawn, one tokeniser call ends it. So workers hold no state that could be lost, and a run
resumes by asking for another step.

A pair whose content is bad is replaced by the next pair of its shard that is not (where the shard has none, by one of the
shard that follows in the epoch's order): the same one on every machine, and the batch is never short. It travels along as a
`BadPair`, to be written down by the run. A shard that has vanished is another matter: it stops the run, or travels along as
`Gone`, and the ranks agree from which step on they do without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from align_train.errors import UserError
from align_train.shards.remote import Vanished
from align_train.stream.batch import Chunk
from align_train.stream.order import Order
from align_train.stream.pairs import BEST_OF, SHARDS_TRIED, BadPair, Drawn, Gone, Pairs
from align_train.stream.permutation import Integers, hash_words
from align_train.stream.source_order import Visits


class TrainingChunks(Dataset["tuple[Chunk, list[BadPair]] | Gone"]):
    """(step, chunk number) -> the chunk. See the module's docstring. Steps count from 0 here.

    first_step, first_cursor: batches of `batch_size` follow each other from there on, after so many pairs of the order.
    drop_missing: hand on a shard that has vanished as `Gone` instead of raising.
    """

    def __init__(
        self,
        *,
        pairs: Pairs,
        order: Order,
        vocabulary: Callable[[Sequence[str]], NDArray[np.int32]],
        batch_size: int,
        chunk_size: int,
        first_step: int = 0,
        first_cursor: int = 0,
        drop_missing: bool = False,
    ) -> None:
        self.pairs, self.order, self.vocabulary = pairs, order, vocabulary
        self.batch_size, self.chunk_size = batch_size, chunk_size
        self.first_step, self.first_cursor, self.drop_missing = (
            first_step,
            first_cursor,
            drop_missing,
        )

    def cursor(self, step: int) -> int:
        """Pairs of the order that are consumed before a step."""
        return self.first_cursor + (step - self.first_step) * self.batch_size

    def visits(self, step: int, slots: Integers | None = None) -> Visits:
        """Where the slots of a step's global batch lead; None: all."""
        return self.order.global_batch(
            self.cursor(step),
            self.batch_size,
            np.arange(self.batch_size) if slots is None else slots,
        )

    def __getitem__(self, place: tuple[int, int]) -> tuple[Chunk, list[BadPair]] | Gone:
        step, number = place
        visits = self.visits(
            step, np.arange(number * self.chunk_size, (number + 1) * self.chunk_size)
        )
        size = self.pairs.views.image_size
        images = _shared((len(visits), size, size, 3), torch.uint8)
        rows = images.numpy()
        drawn: list[Drawn] = []
        keys: list[str] = []
        bad: list[BadPair] = []
        # All randomness of a visit is from (seed, epoch, pair).
        seeds = hash_words(self.order.seed, 5, visits.epoch, visits.shard, visits.pair)
        columns = (
            visits.epoch.tolist(),
            visits.shard.tolist(),
            visits.pair.tolist(),
            seeds.tolist(),
        )
        for row, (epoch, shard, pair, seed) in enumerate(zip(*columns, strict=True)):
            try:
                visit, key = self._load_or_replace(step, epoch, shard, pair, seed, bad)
            except Vanished as error:
                if self.drop_missing:
                    return Gone(error.shard)
                raise UserError(
                    f"{error} (or let the run go on without such shards: data.missing_shards=drop)"
                ) from None
            rows[row] = visit.pixels
            drawn.append(visit)
            keys.append(key)
        captions = [visit.caption for visit in drawn]
        chunk = Chunk(
            images=images,
            input_ids=torch.from_numpy(self.vocabulary(captions)),
            keys=keys,
            captions=captions,
            number=number,
            content_ids=self._content_ids(drawn),
        )
        return chunk, bad

    def _content_ids(self, drawn: list[Drawn]) -> Tensor | None:
        if not self.pairs.content_ids:
            return None
        return torch.tensor(
            [[visit.picture_id for visit in drawn], [visit.text_id for visit in drawn]]
        )

    def _load_or_replace(
        self, step: int, epoch: int, shard: int, pair: int, seed: int, bad: list[BadPair]
    ) -> tuple[Drawn, str]:
        """One visit: what is drawn of the pair, and its key, or of the first good one after it."""
        reason = ""
        reader = own = self.pairs.reader(shard)
        tried = shard
        for _ in range(SHARDS_TRIED):
            for attempt in range(min(len(reader), BEST_OF)):
                candidate = (pair + attempt) % len(reader)
                try:
                    drawn = self.pairs.draw(tried, candidate, seed)
                except ValueError as error:
                    if isinstance(error, UserError):  # the shard itself, not what a pair holds
                        raise
                    reason = reason or str(error)
                    continue
                key = reader.key(candidate)
                if reason:
                    bad.append(BadPair(step + 1, own.key(pair), reason, key))
                return drawn, key
            tried = self.order.neighbour(tried, epoch)
            reader = self.pairs.reader(tried)
        raise UserError(
            f"{own.path}: no good pair in it nor in the {SHARDS_TRIED - 1} shards that follow ({reason}); leave such shards "
            f"out, or repair them"
        )


def _shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor; in a worker process in shared memory from the start, as torch's own collation does, so that
    handing it over copies nothing."""
    if torch.utils.data.get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    length = int(np.prod(shape)) * dtype.itemsize
    new_shared: Any = torch.UntypedStorage._new_shared
    storage = new_shared(length)
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload, no-any-return]
