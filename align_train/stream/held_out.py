from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from align_train.errors import UserError
from align_train.shards.manifest import place_in
from align_train.stream.decode import Pixels
from align_train.stream.pairs import Pairs


class HeldOutPairs(Dataset[Pixels]):
    """Pairs in the manifest's order, centre view, for evaluation; a bad pair is an error here. limit: the first so many."""

    def __init__(self, *, pairs: Pairs, limit: int | None = None) -> None:
        self.pairs, self.limit = pairs, limit
        self.ends = np.cumsum(pairs.manifest.counts)
        self._about: list[tuple[list[str], dict[str, Any]]] = []

    def __len__(self) -> int:
        return min(self.pairs.manifest.pairs, self.limit or self.pairs.manifest.pairs)

    def __getitem__(self, number: int) -> Pixels:
        shard, pair = place_in(self.ends, number)
        try:
            return self.pairs.centre(shard, pair)[0]
        except (ValueError, OSError) as error:
            raise self._in_one_line(error, shard, pair) from None

    def about(self) -> list[tuple[list[str], dict[str, Any]]]:
        """The texts and the JSON member of every pair, read once."""
        for number in range(len(self._about), len(self)):
            shard, pair = place_in(self.ends, number)
            reader = self.pairs.reader(shard)
            if not pair and (bare := reader.texts_without_picture()):
                raise UserError(
                    f"{self.pairs.manifest.shards[shard].url}: {len(bare)} texts without a picture, first {bare[0]}; pairs "
                    f"to evaluate on must be whole: repair it"
                )
            try:
                self._about.append((self.pairs.caption.read(reader.text(pair)), reader.json(pair)))
            except ValueError as error:
                raise self._in_one_line(error, shard, pair) from None
        return self._about

    def _in_one_line(self, error: Exception, shard: int, pair: int) -> UserError:
        if isinstance(error, UserError):
            return error
        key = self.pairs.reader(shard).key(pair)
        url = self.pairs.manifest.shards[shard].url
        return UserError(f"{url}, {key}: {error}; pairs to evaluate on must be whole: repair it")
