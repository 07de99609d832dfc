"""Embeddings of images and texts beside their scores: a teacher's, for training without it.

`score embeddings=true` writes for each shard, before its file of scores:

- `00000.images.npy`: float16 `[pairs, dim]`, in the order of the scores' keys; no number in the row
  of a pair that could not be scored;
- `00000.texts.npy`: float16 `[texts, dim]`, of all texts of its good pairs, pair by pair;
- `00000.text_ids.npy`: int64 `[texts]`, a hash of each text;
- `00000.first_texts.npy`: int64 `[pairs + 1]`, where each pair's texts begin, and their end.

They are joined by content, never by place: a shard by its name and size, a pair by its key, and the
text that was drawn by its hash. A pair whose text was not embedded has no teacher for that visit.

Price: 2·dim bytes an image and text. A loader's worker maps the files and reads the rows that it
needs; of an open shard it keeps the keys.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError, one_line
from align_train.index.folder import write_file
from align_train.index.scored_shards import named_shards, scored_places
from align_train.index.scores import Scores
from align_train.shards.manifest import Manifest
from align_train.stream.pairs import content_id

Halves = NDArray[np.float16]

# A worker has few shards in use at a time; each open one keeps its keys in memory.
_OPEN_SHARDS = 64

_NAMES = ("images", "texts", "text_ids", "first_texts")


@dataclass(frozen=True)
class ShardEmbeddings:
    """The embeddings of a shard.

    Attributes:
        images: See the module.
        texts: See the module.
        text_ids: See the module.
        first_texts: See the module.
    """

    images: Halves
    texts: Halves
    text_ids: NDArray[np.int64]
    first_texts: NDArray[np.int64]

    def write(self, scores: Scores, shard: int) -> None:
        """Writes the files of a shard.

        Args:
            scores: The folder.
            shard: The shard's index there.

        Raises:
            UserError: A file cannot be written.
        """
        for name in _NAMES:
            content = io.BytesIO()
            np.save(content, getattr(self, name), allow_pickle=False)
            write_file(scores.path / f"{shard:05d}.{name}.npy", content.getbuffer())

    @classmethod
    def map(cls, scores: Scores, shard: int) -> ShardEmbeddings:
        """Maps the files of a shard, and reads none of their rows.

        Args:
            scores: The folder.
            shard: The shard's index there.

        Raises:
            UserError: They are not there, broken, or do not fit the scores.
        """
        file = scores.path
        try:
            arrays: list[NDArray[Any]] = []
            for name in _NAMES:
                file = scores.path / f"{shard:05d}.{name}.npy"
                arrays.append(np.load(file, mmap_mode="r", allow_pickle=False))
            found = cls(*arrays)
            found._check(scores.header.counts[shard], scores.header.dim)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{file}: cannot be read ({one_line(error, 100)}); remove {scores.path} and run "
                f"the same align-train score again"
            ) from None
        return found

    def _check(self, pairs: int, dim: int | None) -> None:
        texts = len(self.text_ids)
        fits = (
            self.images.shape == (pairs, dim)
            and self.texts.shape == (texts, dim)
            and self.first_texts.shape == (pairs + 1,)
            # The last number is the end of the last pair's texts.
            and self.first_texts[-1] == texts
        )
        # Another type would be cast without a word when its rows are copied.
        if not fits or not self.images.dtype == self.texts.dtype == np.float16:
            raise ValueError("other arrays than score writes")


class StoredInput:
    """The embeddings of the pairs that a worker has drawn: float16 `[pairs, 2, dim]`.

    Row 0 of a pair is its image's, row 1 its text's. Rows without numbers: there are none of it.
    """

    def __init__(self, scores: Scores, manifest: Manifest) -> None:
        """Finds the shards, and opens none.

        Args:
            scores: The folder, with embeddings.
            manifest: The shards of the run.

        Raises:
            UserError: A shard has no embeddings there, or changed since.
        """
        dim = scores.header.dim
        if dim is None:
            raise UserError(
                f"{scores.path}: scores without embeddings; score into another folder with "
                f"embeddings=true"
            )
        self.dim = dim
        self.scores = scores
        places = scored_places(scores, named_shards(manifest))
        missing = [
            shard.name
            for shard, place in zip(manifest.shards, places, strict=True)
            if place is None
        ]
        # Refused before training: a loader would meet the missing shard only in mid-run.
        if missing:
            raise UserError(
                f"{scores.path}: no embeddings of {len(missing)} of {len(places)} shards, the "
                f"first is {missing[0]}; score the run's shards with embeddings=true"
            )
        self.places = [place for place in places if place is not None]
        self._open: OrderedDict[int, tuple[dict[bytes, int], ShardEmbeddings]] = OrderedDict()

    def make(self, pairs: Sequence[tuple[int, bytes]], captions: Sequence[str]) -> Halves:
        """See `TeacherInput.make`."""
        # NaN says that a pair has no teacher, which is then left out of the teacher's loss.
        rows = np.full((len(pairs), 2, self.dim), np.nan, dtype=np.float16)
        for row, (shard, key), caption in zip(rows, pairs, captions, strict=True):
            row_of_key, embeddings = self._shard(self.places[shard])
            at = row_of_key.get(key)
            if at is None:
                continue
            first, end = embeddings.first_texts[at : at + 2].tolist()
            # A pair may have several texts, and a run draws one: the hash says which.
            wanted = content_id(caption.encode())
            for text in range(first, end):
                if embeddings.text_ids[text] == wanted:
                    row[0] = embeddings.images[at]
                    row[1] = embeddings.texts[text]
                    break
        return rows

    def joined(self, parts: Sequence[NDArray[np.generic]]) -> Halves:
        """See `TeacherInput.joined`."""
        return np.concatenate(list(parts))

    def blank(self, count: int) -> Halves:
        """See `TeacherInput.blank`."""
        return np.full((count, 2, self.dim), np.nan, dtype=np.float16)

    def _shard(self, place: int) -> tuple[dict[bytes, int], ShardEmbeddings]:
        if place in self._open:
            self._open.move_to_end(place)
            return self._open[place]

        keys, _ = self.scores.read(place)
        row_of_key: dict[bytes, int] = {}
        for row, key in enumerate(keys.tolist()):
            # A later pair with the same key is none that can be drawn.
            row_of_key.setdefault(key, row)
        self._open[place] = (row_of_key, ShardEmbeddings.map(self.scores, place))
        # The one that was used longest ago goes.
        if len(self._open) > _OPEN_SHARDS:
            self._open.popitem(last=False)
        return self._open[place]
