"""The keys of a collection's images as their tars spell them.

A collection has texts in place of keys. A key that is no UTF-8 is spelled otherwise there, and
sorts otherwise; and pairs that are lost with the rest of a broken tar have made-up keys.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from align_train.errors import UserError
from align_train.index.collection import Collection
from align_train.index.looked_up import Keys
from align_train.stream.pairs import Pairs


class TarKeys:
    """Reads the keys of a collection, shard by shard."""

    def __init__(self, collection: Collection, pairs: Pairs) -> None:
        """Reads nothing yet.

        Args:
            collection: The embeddings.
            pairs: The pairs that were embedded.
        """
        self.collection = collection
        self.pairs = pairs

    def stem(self, shard: int) -> str:
        """The beginning of the keys in the collection. shard: its index."""
        return Path(self.pairs.manifest.shards[shard].name).stem

    def read(self, shard: int) -> Keys:
        """Reads the keys of a shard, without its name.

        Args:
            shard: Its index in the manifest.

        Returns:
            The keys in the order of the collection's rows, `[pairs]`.

        Raises:
            UserError: The collection's file is broken, or the tar is, or has other keys.
        """
        keys = self.collection.keys(shard)
        stem = self.stem(shard)
        # The last pair of a broken tar is lost in any case.
        if keys[-1:] == [f"{stem}/#{len(keys) - 1}"] or any("\ufffd" in key for key in keys):
            raw = self._of_tar(shard, keys)
        else:
            raw = [key[len(stem) + 1 :].encode("utf-8", "surrogatepass") for key in keys]

        # "S1" at least: there is no text of length 0.
        return np.array(raw, dtype=np.bytes_) if raw else np.empty(0, dtype="S1")

    def _of_tar(self, shard: int, keys: list[str]) -> list[bytes]:
        reader = self.pairs.reader(shard)
        fault = reader.index.fault
        if fault or keys != [reader.key(pair) for pair in range(len(reader))]:
            raise UserError(
                f"{self.pairs.manifest.shards[shard].url}: "
                f"{fault or 'has other keys than those that were embedded'}; fetch it again, "
                f"remove {self.collection.path}/{shard:05d}.npy, and run the same align-train "
                f"embed again"
            )
        return [reader.key_bytes(pair) for pair in range(len(keys))]
