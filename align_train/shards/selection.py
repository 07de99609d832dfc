"""Selections: which pairs of each tar belong to the data, so that filtering never rewrites tars.

The bits of all shards lie in one file `NAME.selection` beside the manifest: one bit for each pair
of a tar, in the order of the pairs' sorted keys. The bits are read when the shard is opened.
`rates.py` has selections whose pairs come more or less often than once an epoch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError
from align_train.shards.cache import ShardCache


@dataclass(frozen=True, slots=True)
class Selection:
    """Which pairs of one tar are kept.

    Attributes:
        file: Path or URL of the file of bits.
        at: The byte at which the bits of this tar begin.
        of: Pairs in the tar.
        hash: A hash of what the file has of this tar.
    """

    file: str
    at: int
    of: int
    hash: str

    def read(self, cache: ShardCache) -> NDArray[np.bool_]:
        """Reads the bits.

        Args:
            cache: Fetches the file if it is remote.

        Returns:
            Whether each pair is kept, in the order of the sorted keys, `[of]`.

        Raises:
            UserError: The file cannot be read, or is not the one that the manifest was made with.
        """
        bits = np.frombuffer(self.data(cache), dtype=np.uint8)
        return np.unpackbits(bits, count=self.of).astype(bool)

    @property
    def size(self) -> int:
        """Bytes of this tar's bits."""
        return -(-self.of // 8)

    def data(self, cache: ShardCache) -> bytes:
        """Reads what the file has of this tar; UserError as of `read`."""
        data = self._part(cache)
        if short_hash(data) != self.hash and cache.wants(self.file):
            # The copy may be older than the file: fetch it again, once.
            cache.forget(self.file)
            data = self._part(cache)

        if short_hash(data) != self.hash:
            raise UserError(
                f"{self.file}: the bits at {self.at} are not those that the manifest was made "
                f"with; make it anew"
            )
        return data

    def _part(self, cache: ShardCache) -> bytes:
        try:
            with cache.local(self.file).open("rb") as file:
                file.seek(self.at)
                return file.read(self.size)
        except OSError as error:
            raise UserError(
                f"{self.file}: cannot be read ({error.strerror or error}); "
                f"it belongs beside its manifest"
            ) from None


def selection_name(manifest: str) -> str:
    """The name of the file of bits that belongs to a manifest of that name."""
    return f"{manifest.removesuffix('.jsonl')}.selection"


def short_hash(data: bytes) -> str:
    """64 bits of a SHA-256, as 16 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()[:16]
