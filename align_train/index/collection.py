"""A folder of embedded images, and the search that compares a query with all of them.

The folder holds `collection.json`, and for each shard `00000.npy` (embeddings `[images, dim]`,
memory-mapped) and `00000.jsonl` (key, texts and name of each row). The row of an image that cannot
be decoded is zeros, and its line says why. A shard's files appear whole, the embeddings last: a
shard that has them is done.

Price of a search: one pass over the files, 16,384 rows at a time. From a million images on, say,
`faiss.py` is faster.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from align_train.errors import UserError, one_line
from align_train.evals.knn import nearest
from align_train.index.folder import PAIRS_MUST_AGREE, begin_folder, write_file
from align_train.index.records import read_keys, read_record
from align_train.index.settings import SETTINGS_NAME, Settings, refuse_absent_collection
from align_train.shards.manifest import place_in
from align_train.stream.records import Record

# A block of 640 numbers a row takes 42 MB in float32, whatever the size of the collection.
_BLOCK = 16_384  # rows compared at a time

_MUST_AGREE = PAIRS_MUST_AGREE | {"precision": "another precision"}

Rows = NDArray[np.floating[Any]]


class Match(NamedTuple):
    """An image that a search found."""

    image: int  # its index in the collection
    cosine: float


class Collection:
    """Embedded images by index, in the order of the shards. Rows are L2-normalised."""

    def __init__(self, path: Path, settings: Settings) -> None:
        """Reads nothing: `begin` and `open` do.

        Args:
            path: The folder.
            settings: Those it was made with.
        """
        self.path = path
        self.settings = settings
        # Running totals, in which `place` finds an image's shard by bisection.
        self.ends = np.cumsum(settings.counts)

    def __len__(self) -> int:
        return int(self.ends[-1])

    @staticmethod
    def begin(path: Path, settings: Settings) -> Collection:
        """Makes the folder, or goes on in one.

        Args:
            path: The folder.
            settings: Those it is to be made with.

        Returns:
            The collection, which may lack shards.

        Raises:
            UserError: The folder belongs to other shards or another model, or to something else.
        """
        file = path / SETTINGS_NAME
        begun = begin_folder(
            file, settings, Settings.read, must_agree=_MUST_AGREE, holds="embeddings"
        )
        return Collection(path, begun)

    @staticmethod
    def open(path: Path) -> Collection:
        """Opens a whole collection.

        Args:
            path: The folder.

        Returns:
            The collection.

        Raises:
            UserError: There is none, or shards are missing.
        """
        refuse_absent_collection(path)
        collection = Collection(path, Settings.read(path / SETTINGS_NAME))
        shards = len(collection.settings.counts)
        missing = [shard for shard in range(shards) if not collection.has(shard)]
        if missing:
            raise UserError(
                f"{path}: {len(missing)} of {shards} shards are not embedded yet; run the same "
                f"align-train embed again"
            )
        return collection

    def has(self, shard: int) -> bool:
        """Whether a shard is done. shard: its index."""
        # The embeddings come last and would do; but the records may have been removed since.
        return self._file(shard, "npy").is_file() and self._file(shard, "jsonl").is_file()

    def write(self, shard: int, embeddings: NDArray[np.float32], about: list[Record]) -> None:
        """Writes a shard's files.

        Args:
            shard: Its index.
            embeddings: Normalised, `[images, dim]`; zeros for images that cannot be decoded.
            about: The record of each row, see `about`.

        Raises:
            UserError: A file cannot be written.
        """
        # The embeddings last: a shard that has them is done.
        lines = "".join(json.dumps(row) + "\n" for row in about)
        write_file(self._file(shard, "jsonl"), lines)

        rows = io.BytesIO()
        np.save(rows, embeddings.astype(self.settings.precision))
        write_file(self._file(shard, "npy"), rows.getbuffer())

    def about(self, image: int) -> Record:
        """Reads the record of an image.

        Args:
            image: Its index.

        Returns:
            `key`; `texts`; `source`, the image's name before it was packed, empty if nobody knows
            it; and `bad` if it cannot be decoded.

        Raises:
            UserError: The shard's file is broken.
        """
        shard, row = self.place(image)
        return read_record(self._file(shard, "jsonl"), row)

    def keys(self, shard: int) -> list[str]:
        """Reads the keys of a shard's images. shard: its index.

        Raises:
            UserError: The shard's file is broken.
        """
        return read_keys(self._file(shard, "jsonl"), self.settings.counts[shard])

    def place(self, image: int) -> tuple[int, int]:
        """The index of an image's shard, and its row there."""
        return place_in(self.ends, image)

    def search(self, query: Tensor, k: int) -> list[Match]:
        """Compares a query with all images.

        Args:
            query: A normalised embedding, `[dim]`.
            k: How many images are wanted.

        Returns:
            The k nearest images, nearest first; the first of equals first. Images that cannot be
            decoded are never among them.

        Raises:
            UserError: A file is broken.
        """
        best: list[Match] = []
        for first, block in self.blocks():
            rows = decoded_rows(block)
            if not len(rows):
                continue

            # `nearest` gives no more than there are, and a block may have fewer rows than k.
            cosines, nearest_rows = nearest(query[None], block[rows], min(k, len(rows)))
            # `nearest` counts decoded rows of the block only.
            images = (first + rows[nearest_rows[0]]).tolist()
            best += map(Match, images, cosines[0].tolist())
            # Only k stay of each block, so that memory does not grow with the collection.
            best = sorted(best, key=nearest_first)[:k]
        return best

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Reads all embeddings, a block at a time.

        Yields:
            The index of the block's first image, and embeddings `[rows, dim]`, float32.

        Raises:
            UserError: A file is broken.
        """
        first = 0
        for shard, count in enumerate(self.settings.counts):
            rows = self._open(shard)
            for start in range(0, count, _BLOCK):
                # In float32 on the CPU: products of float16 would be slow and coarse.
                block = torch.from_numpy(rows[start : start + _BLOCK].astype(np.float32))
                # A NaN compares with nothing: a single one would spoil the order of all matches.
                if not block.isfinite().all():
                    raise UserError(
                        f"{self._file(shard, 'npy')}: holds numbers that are not finite; "
                        f"remove it and run align-train embed again"
                    )
                yield first + start, block
            first += count

    def row(self, image: int) -> Tensor:
        """Reads one embedding.

        Args:
            image: The image's index.

        Returns:
            `[dim]`, float32.

        Raises:
            UserError: The shard's file is broken.
        """
        shard, row = self.place(image)
        return torch.from_numpy(self._open(shard)[row].astype(np.float32))

    def _open(self, shard: int) -> Rows:
        file = self._file(shard, "npy")
        # Mapped, not read: a search may want only a few rows of a large file.
        try:
            rows: Rows = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            reason = one_line(error, 100)
            raise UserError(
                f"{file}: cannot be read ({reason}); remove it and run the same "
                f"align-train embed again"
            ) from None

        # A file from another collection would give wrong matches, and no error.
        shape = (self.settings.counts[shard], self.settings.dim)
        if rows.shape != shape or rows.dtype != self.settings.precision:
            raise UserError(
                f"{file}: {rows.shape} of {rows.dtype} is not what {SETTINGS_NAME} says; remove it "
                f"and run align-train embed again"
            )
        return rows

    def _file(self, shard: int, kind: str) -> Path:
        return self.path / f"{shard:05d}.{kind}"


def nearest_first(match: Match) -> tuple[float, int]:
    """Sorts matches by their cosine, and equal ones by their index."""
    return (-match.cosine, match.image)


def decoded_rows(block: Tensor) -> Tensor:
    """The indices of rows that are no zeros: the images that could be decoded.

    Args:
        block: `[rows, dim]`.

    Returns:
        Indices, `[decoded]`.
    """
    return (block != 0).any(dim=1).nonzero()[:, 0]
