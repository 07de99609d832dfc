"""From (finished steps, chunk index) to a chunk of decoded pairs.

A worker is asked for a chunk by these two numbers and needs nothing else. The order names the
pairs, the readers give their bytes, each is decoded and its text drawn. One call of the tokenizer
ends it. So workers hold no state that could be lost, and a run resumes by asking for another step.

Price: beside decoding, a chunk costs one lookup in the order and one call of the tokenizer. Pixels
are copied once, from the decoder's array into the chunk's shared memory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from align_train.errors import UserError
from align_train.shards.remote import Vanished
from align_train.stream.batch import Chunk
from align_train.stream.order import Order
from align_train.stream.pairs import Drawn, Pairs
from align_train.stream.permutation import Integers, Salt, hash_words
from align_train.stream.recipe import Start
from align_train.stream.replacement import BadPair, Gone, draw_usable
from align_train.stream.source_order import Visits
from align_train.stream.vocabulary import TextsToIds


class TrainingChunks(Dataset["tuple[Chunk, list[BadPair]] | Gone"]):
    """The chunks of any step, indexed by (finished steps, chunk index in the global batch)."""

    def __init__(
        self,
        *,
        pairs: Pairs,
        order: Order,
        vocabulary: TextsToIds,
        batch_size: int,
        chunk_size: int,
        start: Start | None = None,
        drop_missing: bool = False,
    ) -> None:
        """Reads nothing yet.

        Args:
            pairs: The pairs that the order names.
            order: The order.
            vocabulary: Turns texts, or labels, into numbers.
            batch_size: Pairs of the global batch.
            chunk_size: Pairs of a chunk.
            start: Where this stretch of the run began; None: at the run's beginning.
            drop_missing: Hand on a vanished shard as `Gone`, instead of raising.
        """
        self.pairs = pairs
        self.order = order
        self.vocabulary = vocabulary
        self.batch_size = batch_size
        self.chunk_size = chunk_size
        self.start = start or Start()
        self.drop_missing = drop_missing

    def cursor(self, finished_steps: int) -> int:
        """Returns the pairs of the order that are consumed after so many steps."""
        return self.start.after(finished_steps, self.batch_size).cursor

    def visits(self, finished_steps: int, slots: Integers | None = None) -> Visits:
        """Returns the pairs at slots of a step's global batch.

        Args:
            finished_steps: Steps before this one.
            slots: Places in the global batch; None: all of them.
        """
        if slots is None:
            slots = np.arange(self.batch_size)
        return self.order.global_batch(self.cursor(finished_steps), self.batch_size, slots)

    def __getitem__(self, at: tuple[int, int]) -> tuple[Chunk, list[BadPair]] | Gone:
        finished_steps, index = at
        slots = np.arange(index * self.chunk_size, (index + 1) * self.chunk_size)
        visits = self.visits(finished_steps, slots)
        # All randomness of a visit is from (seed, epoch, pair), none from worker or rank.
        seeds = hash_words(
            self.order.seed, Salt.VISIT, visits.epoch, visits.shard, visits.pair
        ).tolist()

        size = self.pairs.views.image_size
        images = _empty_shared((len(visits), size, size, 3))
        rows = images.numpy()
        drawn: list[Drawn] = []
        keys: list[str] = []
        bad: list[BadPair] = []
        # Lists of Python integers: NumPy's would cost a conversion at each use.
        columns = zip(
            visits.epoch.tolist(), visits.shard.tolist(), visits.pair.tolist(), seeds, strict=True
        )
        for row, (epoch, shard, pair, seed) in enumerate(columns):
            try:
                visit = draw_usable(
                    self.pairs, self.order, epoch=epoch, shard=shard, pair=pair, seed=seed
                )
            except Vanished as error:
                if self.drop_missing:
                    return Gone(error.shard)
                raise UserError(
                    f"{error} (or let the run go on without such shards: data.missing_shards=drop)"
                ) from None

            rows[row] = visit.drawn.pixels
            drawn.append(visit.drawn)
            keys.append(visit.key)
            if visit.reason:
                asked = self.pairs.reader(shard).key(pair)
                bad.append(BadPair(finished_steps + 1, asked, visit.reason, visit.key))

        captions = [pair.caption for pair in drawn]
        chunk = Chunk(
            images=images,
            input_ids=torch.from_numpy(self.vocabulary(captions)),
            keys=keys,
            captions=captions,
            index=index,
            content_ids=self._content_ids(drawn),
        )
        return chunk, bad

    def _content_ids(self, drawn: list[Drawn]) -> Tensor | None:
        if not self.pairs.content_ids:
            return None
        image_ids = [pair.image_id for pair in drawn]
        text_ids = [pair.text_id for pair in drawn]
        return torch.tensor([image_ids, text_ids])


def _empty_shared(shape: tuple[int, ...]) -> Tensor:
    """Returns an uninitialised uint8 tensor: in a worker process, in shared memory.

    torch's own collation does the same: the worker hands the tensor over without a copy.
    """
    if torch.utils.data.get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)

    # torch has no public name for it.
    new_shared: Callable[[int], torch.UntypedStorage] = torch.UntypedStorage._new_shared
    storage = new_shared(int(np.prod(shape)))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
