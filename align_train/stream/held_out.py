"""Pairs for evaluation: in the manifest's order, each in its centre view.

They must be whole. A bad pair, which training would replace, is an error here: figures over other
pairs than the user named would be wrong.
"""

from __future__ import annotations

import numpy as np
from torch.utils.data import Dataset

from align_train.cluster.sharing import from_first, note_progress
from align_train.errors import UserError
from align_train.shards.manifest import place_in
from align_train.stream.decode import Pixels
from align_train.stream.pairs import Pairs
from align_train.stream.records import About


class HeldOutPairs(Dataset[Pixels]):
    """The images of a manifest's pairs, with the texts and record of each."""

    def __init__(self, *, pairs: Pairs, limit: int | None = None) -> None:
        """Reads nothing yet.

        Args:
            pairs: The pairs.
            limit: Only the first so many; None: all.
        """
        self.pairs = pairs
        self.limit = limit
        self.ends = np.cumsum(pairs.manifest.counts)
        self._about: About = []

    def __len__(self) -> int:
        pairs = self.pairs.manifest.pairs
        return pairs if self.limit is None else min(pairs, self.limit)

    def __getitem__(self, index: int) -> Pixels:
        shard, pair = place_in(self.ends, index)
        try:
            return self.pairs.centre(shard, pair)[0]
        except (ValueError, OSError) as error:
            raise self._in_one_line(error, shard, pair) from None

    def about(self) -> About:
        """Returns the texts and the JSON member of every pair; reads them once.

        Raises:
            UserError: A pair is not whole.
        """
        if not self._about and len(self):
            manifest = self.pairs.manifest
            place = f"{self.pairs.caption} {self.pairs.members}"
            # All that the texts depend on: the first process publishes them under this name.
            key = f"texts {manifest.source} {manifest.identity} {place} {self.limit}"
            rows = from_first(key, self._read)
            # They come through JSON, which makes lists of tuples.
            self._about = [(texts, record) for texts, record in rows]
        return self._about

    def _read(self) -> About:
        rows = []
        for index in range(len(self)):
            shard, pair = place_in(self.ends, index)
            if pair == 0:
                self._check_every_text_has_an_image(shard)

            reader = self.pairs.reader(shard)
            try:
                texts = reader.all_texts(pair)
                record = reader.json(pair)
            except ValueError as error:
                raise self._in_one_line(error, shard, pair) from None
            rows.append((texts, record))
            note_progress()
        return rows

    def _check_every_text_has_an_image(self, shard: int) -> None:
        # Pairs are counted by their images: a text alone would go unnoticed.
        bare = self.pairs.reader(shard).texts_without_image()
        if bare:
            raise UserError(
                f"{self.pairs.manifest.shards[shard].url}: {len(bare)} texts without an image, "
                f"first {bare[0]}; pairs to evaluate on must be whole: repair it"
            )

    def _in_one_line(self, error: Exception, shard: int, pair: int) -> UserError:
        if isinstance(error, UserError):
            return error
        key = self.pairs.reader(shard).key(pair)
        url = self.pairs.manifest.shards[shard].url
        return UserError(f"{url}, {key}: {error}; pairs to evaluate on must be whole: repair it")
