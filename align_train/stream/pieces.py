"""From places in a step's global batch to decoded pairs.

A worker is asked for a *piece*: some pairs at consecutive places of a step. It needs nothing else.
The order names the pairs, the readers give their bytes, each is decoded and its text drawn. One
call of the tokenizer ends it. So workers hold no state that could be lost, and a run resumes by
asking for another step.

Pixels go where the caller wants them, which for a run is memory that the processes share
(`arena.py`). All else is small and is returned: NumPy arrays and lists, because a torch tensor
would travel between processes as a file descriptor.

Price: beside decoding, a piece costs one lookup in the order and one call of the tokenizer. Pixels
are copied once, from the decoder's array to their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError
from align_train.shards.remote import Vanished
from align_train.stream.decode import Pixels
from align_train.stream.order import Order
from align_train.stream.pairs import Pairs
from align_train.stream.permutation import Integers, Salt, hash_words
from align_train.stream.recipe import Start
from align_train.stream.replacement import BadPair, Gone, draw_usable
from align_train.stream.source_order import Visits
from align_train.stream.teaching import TeacherInput
from align_train.stream.token_ids import lengths_of
from align_train.stream.vocabulary import TextsToIds


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Pairs that were made at a time, without their pixels.

    Attributes:
        input_ids: int32 `[pairs, length]`, padded with -1 to the piece's longest text (rounded up
            to 8); for a classifier, indices of classes `[pairs, 1]`.
        lengths: `[pairs]`, the tokens of each text.
        keys: The pairs' names, `shard/key`.
        captions: The texts as drawn.
        content_ids: `[2, pairs]`, of images and of texts; None if nobody asked for them.
        bad_pairs: The pairs that were replaced.
        teacher: `[pairs, …]`, what the run's teacher needs of them; None if it needs nothing.
    """

    input_ids: NDArray[np.int32]
    lengths: NDArray[np.int64]
    keys: list[str]
    captions: list[str]
    content_ids: NDArray[np.int64] | None
    bad_pairs: list[BadPair]
    teacher: NDArray[np.generic] | None = None


class TrainingPieces:
    """The pairs of any step, at any places in its global batch."""

    def __init__(
        self,
        *,
        pairs: Pairs,
        order: Order,
        vocabulary: TextsToIds,
        batch_size: int,
        start: Start | None = None,
        drop_missing: bool = False,
        teacher: TeacherInput | None = None,
    ) -> None:
        """Reads nothing yet.

        Args:
            pairs: The pairs that the order names.
            order: The order.
            vocabulary: Turns texts, or labels, into numbers.
            batch_size: Pairs of the global batch.
            start: Where this stretch of the run began; None: at the run's beginning.
            drop_missing: Hand on a vanished shard as `Gone`, instead of raising.
            teacher: Makes what the run's teacher needs of each pair; None: nothing.
        """
        self.pairs = pairs
        self.order = order
        self.vocabulary = vocabulary
        self.batch_size = batch_size
        self.start = start or Start()
        self.drop_missing = drop_missing
        self.teacher = teacher

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

    def pair_at(self, epoch: int, shard: int, slot: int) -> int:
        """Returns the pair that a visit shows: see `Pairs.pair_at`."""
        return self.pairs.pair_at(shard, slot, epoch=epoch, seed=self.order.seed)

    def slots_of(self, epoch: int, shard: int, pair: int) -> Sequence[int]:
        """Returns the visits of a pair in an epoch, as `Visits.pair` has them."""
        return self.pairs.slots_of(shard, pair, epoch=epoch, seed=self.order.seed)

    def shape(self, count: int) -> tuple[int, int, int, int]:
        """Returns the shape of so many images: `(count, height, width, 3)`."""
        size = self.pairs.views.image_size
        return count, size, size, 3

    def make(self, finished_steps: int, slots: range, pixels: Pixels) -> Piece | Gone:
        """Makes the pairs at some places of a step.

        Args:
            finished_steps: Steps before this one.
            slots: Places in the global batch.
            pixels: uint8 `[len(slots), height, width, 3]`. The images are written into it.

        Returns:
            The pairs, or the first shard that has vanished.

        Raises:
            UserError: A shard cannot be read, or has vanished and may not be dropped; or there is
                no good pair in several shards.
        """
        visits = self.visits(finished_steps, np.asarray(slots))
        # All randomness of a visit is from (seed, epoch, pair), none from worker or rank. By rates
        # a pair may come twice in an epoch: each visit has a slot of its own in place of the pair.
        seeds = hash_words(
            self.order.seed, Salt.VISIT, visits.epoch, visits.shard, visits.pair
        ).tolist()

        keys: list[str] = []
        captions: list[str] = []
        shown: list[tuple[int, int]] = []
        content_ids: list[tuple[int, int]] = []
        bad: list[BadPair] = []
        # Lists of Python integers: NumPy's would cost a conversion at each use.
        columns = zip(
            visits.epoch.tolist(), visits.shard.tolist(), visits.pair.tolist(), seeds, strict=True
        )
        for row, (epoch, shard, slot, seed) in enumerate(columns):
            try:
                pair = self.pair_at(epoch, shard, slot)
                visit = draw_usable(
                    self.pairs, self.order, epoch=epoch, shard=shard, pair=pair, seed=seed
                )
            except Vanished as error:
                return self._gone(error)

            pixels[row] = visit.drawn.pixels
            keys.append(visit.key)
            captions.append(visit.drawn.caption)
            # The pair that is shown, which for a bad pair is the one in its place.
            shown.append((visit.shard, visit.pair))
            content_ids.append((visit.drawn.image_id, visit.drawn.text_id))
            if visit.reason:
                asked = self.pairs.reader(shard).key(pair)
                bad.append(BadPair(finished_steps + 1, asked, visit.reason, visit.key))

        ids = self.vocabulary(captions)
        return Piece(
            input_ids=ids,
            lengths=lengths_of(ids),
            keys=keys,
            captions=captions,
            content_ids=np.array(content_ids).T if self.pairs.content_ids else None,
            bad_pairs=bad,
            teacher=self._for_teacher(shown, captions),
        )

    def _gone(self, error: Vanished) -> Gone:
        if self.drop_missing:
            return Gone(error.shard)
        raise UserError(
            f"{error} (or let the run go on without such shards: data.missing_shards=drop)"
        ) from None

    def _for_teacher(
        self, shown: Sequence[tuple[int, int]], captions: Sequence[str]
    ) -> NDArray[np.generic] | None:
        """What the teacher needs of pairs. shown: the shard of each, and its index there."""
        if self.teacher is None:
            return None
        keys = [(shard, self.pairs.reader(shard).key_bytes(pair)) for shard, pair in shown]
        return self.teacher.make(keys, captions)
