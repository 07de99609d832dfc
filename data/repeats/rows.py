"""The embeddings of a collection in one file, and the order in which their images stay.

The *rank* of an image says who stays: of two that are near each other the one of the lower rank.
Ranks follow the scores, the best first. Images of equal scores, and those without one, follow a
hash of their keys. So neither the order of the shards nor a shard's name favours any image.

Images that could not be decoded have rows of zeros, which are all alike: they have no rank.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from align_train.errors import UserError
from align_train.index.collection import Collection, decoded_rows

from .joined import JoinedScores
from .keys import TarKeys

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_BLOCK = 65_536  # rows read at a time


@dataclass(frozen=True)
class Rows:
    """Embeddings by rank.

    Attributes:
        file: The embeddings as the collection has them, mapped, `[images, dim]`.
        images: The image of each rank, `[ranked]`.
        hashes: Of the keys, by rank, uint64 `[ranked]`.
        scored: So many of the first ranks may make others go. The rest has no score.
    """

    file: np.memmap
    images: Ints
    hashes: NDArray[np.uint64]
    scored: int

    def __len__(self) -> int:
        return len(self.images)

    def take(self, ranks: Ints) -> Floats:
        """Reads embeddings, of length 1. ranks: any; returns float32 `[ranks, dim]`."""
        return _normalised(self.file[self.images[ranks]].astype(np.float32))

    def blocks(self) -> Iterator[tuple[Ints, Floats]]:
        """Reads all of them in the order of the file, which is quick.

        Yields:
            Ranks `[block]`, and embeddings of length 1, `[block, dim]`.
        """
        rank_of = np.full(len(self.file), -1, dtype=np.int64)
        rank_of[self.images] = np.arange(len(self))

        for first in range(0, len(self.file), _BLOCK):
            ranks = rank_of[first : first + _BLOCK]
            has_rank = ranks >= 0
            if has_rank.any():
                block = self.file[first : first + _BLOCK][has_rank]
                yield ranks[has_rank], _normalised(block.astype(np.float32))

    def exact_cosines(self, ranks: Ints, others: Ints) -> NDArray[np.float64]:
        """The cosine of each rank with its other, in float64, `[ranks]`."""
        some = self.file[self.images[ranks]].astype(np.float64)
        them = self.file[self.images[others]].astype(np.float64)
        dots = (some * them).sum(axis=1)
        squares = (some * some).sum(axis=1) * (them * them).sum(axis=1)
        cosines: NDArray[np.float64] = dots / np.sqrt(squares)
        return cosines


def _normalised(rows: Floats) -> Floats:
    # Not as the collection has them: float16 moves lengths by a ten-thousandth.
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def read_rows(
    collection: Collection, keys: TarKeys, scores: JoinedScores | None, path: Path
) -> Rows:
    """Copies the embeddings into one file, and ranks their images.

    Args:
        collection: The embeddings.
        keys: The keys of their images.
        scores: Decide who stays; None: the keys' hashes do.
        path: The new file.

    Returns:
        The rows.

    Raises:
        UserError: A file or a tar is broken, or no image has a score.
    """
    images = len(collection)
    made_with = collection.settings
    shape = (images, made_with.dim)
    file = _new_file(path, shape, made_with.precision)
    decoded = np.zeros(images, dtype=bool)

    with tqdm(total=images, desc="reading embeddings", unit="image", unit_scale=True) as bar:
        for first, block in collection.blocks():
            file[first : first + len(block)] = block.numpy()
            decoded[first + decoded_rows(block).numpy()] = True
            bar.update(len(block))

    hashes = np.empty(images, dtype=np.uint64)
    values = np.zeros(images, dtype=np.float32)
    first = 0
    for shard, count in enumerate(tqdm(made_with.counts, desc="reading keys", unit="shard")):
        of_shard = keys.read(shard)
        beginning = f"{keys.stem(shard)}/".encode("utf-8", "surrogateescape")
        # With the shard's name: two shards may have the same keys.
        hashes[first : first + count] = [_hash(beginning + key) for key in of_shard.tolist()]
        if scores is not None:
            values[first : first + count] = scores.read(shard, of_shard)
        first += count

    if scores is not None:
        scores.refuse_none(np.isfinite(values[decoded]))
    return _ranked(file, np.flatnonzero(decoded), hashes, values)


def _new_file(path: Path, shape: tuple[int, int], precision: str) -> np.memmap:
    """A mapped file whose space on the disk is reserved: a full disk would end the process."""
    size = math.prod(shape) * np.dtype(precision).itemsize
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise UserError(
            f"{path.parent}: {size / 1e9:.1f} GB are needed there while the command runs "
            f"({error.strerror}); free some space or choose another folder"
        ) from None
    return np.memmap(path, dtype=precision, mode="r+", shape=shape)


def _hash(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


def _ranked(file: np.memmap, images: Ints, hashes: NDArray[np.uint64], values: Floats) -> Rows:
    """Sorts the images that could be decoded."""
    of_images = values[images]
    has_score = np.isfinite(of_images)
    # The best first, those without a score last.
    falling = np.where(has_score, -of_images, np.float32(np.inf))
    # For `lexsort` the last key counts first.
    order = np.lexsort((hashes[images], falling, ~has_score))
    images = images[order]
    return Rows(file=file, images=images, hashes=hashes[images], scored=int(has_score.sum()))
