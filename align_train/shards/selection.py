"""Selections: which pairs of each tar belong to the data, so that filtering never rewrites tars.

The bits of all shards lie in one file `NAME.selection` beside the manifest: one bit for each pair
of a tar, in the order of the pairs' sorted keys. The bits are read when the shard is opened.
`rates.py` has selections whose pairs come more or less often than once an epoch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.remote import is_url


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
        # The last byte may hold bits that belong to no pair.
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
                f"{self.file}: what it has at {self.at} is not what the manifest was made with; "
                f"make it anew"
            )
        return data

    def _part(self, cache: ShardCache) -> bytes:
        try:
            with cache.local(self.file).open("rb") as file:
                file.seek(self.at)
                return file.read(self.size)
        except OSError as error:
            raise _unreadable(self.file, error) from None


def refuse_missing(selections: Iterable[Selection]) -> None:
    """Refuses files beside a manifest that are missing or cut, before any shard is opened.

    Args:
        selections: Those of the manifest. Their files at URLs are not asked for.

    Raises:
        UserError: As of `Selection.read`.
    """
    ends: dict[str, int] = {}
    for selection in selections:
        # One look at each file serves all of its shards.
        ends[selection.file] = max(ends.get(selection.file, 0), selection.at + selection.size)

    for file, end in ends.items():
        if is_url(file):
            continue
        try:
            found = os.stat(file).st_size
        except OSError as error:
            raise _unreadable(file, error) from None
        if found < end:
            raise UserError(
                f"{file}: has {found:,} bytes, its manifest needs {end:,}; bring the whole file "
                f"back, or make the manifest anew"
            )


def _unreadable(file: str, error: OSError) -> UserError:
    return UserError(
        f"{file}: cannot be read ({error.strerror or error}); it belongs beside its manifest"
    )


def selection_name(manifest: str) -> str:
    """The name of the file of bits that belongs to a manifest of that name."""
    return f"{manifest.removesuffix('.jsonl')}.selection"


def short_hash(data: bytes) -> str:
    """64 bits of a SHA-256, as 16 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()[:16]
