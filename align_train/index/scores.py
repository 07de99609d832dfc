"""Scores of pairs on disk: one number a pair and column, made once, read by whoever chooses pairs.

The folder holds `scores.json`, and for each shard `00000.npz`: `key`, the pairs' keys in the order
of the manifest's pairs, one float32 array a column, and `tally`, some counts. NaN stands for a pair
that cannot be scored. A shard's file appears whole: a shard that has one is done.

Readers join by the shard's name and the pair's key. A position says nothing: a selection counts
pairs in the order of sorted keys, and another manifest may keep fewer of them.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError, one_line
from align_train.index.folder import PAIRS_MUST_AGREE, begin_folder, write_file
from align_train.index.scores_header import KEY, TALLY, ScoresHeader

SCORES = "scores.json"

SIMILARITY = "similarity"  # the column with the cosine of image and text

TEXT_CHOICES = ("best", "mean", "first")
"""The scores of a pair with several texts: of the text nearest to the image, and so on."""

_FIX = "remove it and run the same align-train score again"

_MUST_AGREE = dict.fromkeys(("shards", "sizes"), "other shards or images") | {
    "columns": "other scores",
    "dim": "another embeddings=…",
}
_MUST_AGREE |= PAIRS_MUST_AGREE

Values = dict[str, NDArray[np.float32]]
"""Column -> the values of a shard's pairs, `[pairs]`."""


class Tally(NamedTuple):
    """What is counted of a shard beside its scores.

    Attributes:
        no_image: Pairs with a text whose image cannot be decoded.
        no_text: Pairs without a text that can be read, or with the key of an earlier one.
        lost: Pairs whose tar is broken, and does not even say their keys.
        texts: Texts that were scored.
        cut: Texts that are longer than the model takes.
    """

    no_image: int = 0
    no_text: int = 0
    lost: int = 0
    texts: int = 0
    cut: int = 0

    def plus(self, other: Tally) -> Tally:
        """The sums."""
        return Tally(*(a + b for a, b in zip(self, other, strict=True)))


class Scores:
    """Scores of pairs, shard by shard in the order of the manifest."""

    def __init__(self, path: Path, header: ScoresHeader) -> None:
        """Reads nothing: `begin` and `open` do.

        Args:
            path: The folder.
            header: What its scores are made with.
        """
        self.path = path
        self.header = header

    def __len__(self) -> int:
        return sum(self.header.counts)

    @staticmethod
    def begin(path: Path, header: ScoresHeader) -> Scores:
        """Makes the folder, or goes on in one.

        Args:
            path: The folder.
            header: What its scores are to be made with.

        Returns:
            The scores, which may lack shards.

        Raises:
            UserError: The folder belongs to other shards or another model, or to something else.
        """
        read = ScoresHeader.read
        begun = begin_folder(path / SCORES, header, read, must_agree=_MUST_AGREE, holds="scores")
        return Scores(path, begun)

    @staticmethod
    def open(path: Path) -> Scores:
        """Opens scores that are whole.

        Args:
            path: The folder.

        Raises:
            UserError: There are none, or shards are missing.
        """
        file = path / SCORES
        if not file.is_file():
            raise UserError(
                f"{path}: no {SCORES} there; make it with "
                f"align-train score model=… shards=… to={path}"
            )

        scores = Scores(path, ScoresHeader.read(file))
        shards = len(scores.header.shards)
        missing = sum(not scores.has(shard) for shard in range(shards))
        if missing:
            raise UserError(
                f"{path}: {missing} of {shards} shards are not scored yet; run the same "
                f"align-train score again"
            )
        return scores

    def has(self, shard: int) -> bool:
        """Whether a shard is done. shard: its index in the manifest."""
        return self._file(shard).is_file()

    def write(
        self,
        shard: int,
        keys: list[bytes],
        columns: Mapping[str, NDArray[np.float32]],
        tally: Tally = Tally(),  # noqa: B008  immutable
    ) -> None:
        """Writes a shard's file.

        Args:
            shard: The shard's index in the manifest.
            keys: The pairs' keys as the tar has them, in the order of the manifest's pairs; empty
                for a pair whose key is lost with the rest of a broken tar.
            columns: The values of each column; NaN for a pair that cannot be scored.
            tally: What is counted beside them.

        Raises:
            UserError: The file cannot be written.
        """
        # The columns that `scores.json` names and no others: every shard's file has the same ones.
        arrays = {name: columns[name].astype(np.float32) for name in self.header.columns}
        rows = io.BytesIO()
        # "S1" at least: numpy has no text of length 0 that can be read back.
        key = np.array(keys, dtype=np.bytes_) if keys else np.empty(0, dtype="S1")
        counts = np.array(tally, dtype=np.int64)
        np.savez(rows, allow_pickle=False, **{KEY: key, TALLY: counts}, **arrays)
        write_file(self._file(shard), rows.getbuffer())

    def read(self, shard: int) -> tuple[NDArray[np.bytes_], Values]:
        """Reads a shard's file.

        Args:
            shard: The shard's index in the manifest.

        Returns:
            The pairs' keys, and the values of each column.

        Raises:
            UserError: The file is broken, or is not what `scores.json` says.
        """
        arrays = self._load(shard, [KEY, *self.header.columns])
        keys = arrays.pop(KEY)

        shape = (self.header.counts[shard],)
        # Sets: one type and one shape must hold for all columns.
        types = {array.dtype for array in arrays.values()}
        shapes = {keys.shape, *(array.shape for array in arrays.values())}
        if types != {np.dtype(np.float32)} or keys.dtype.kind != "S" or shapes != {shape}:
            raise UserError(f"{self._file(shard)}: holds other arrays than {SCORES} says; {_FIX}")
        return keys, arrays

    def tally(self, shard: int) -> Tally:
        """What was counted of a shard. shard: its index; UserError if its file is broken."""
        counts = self._load(shard, [TALLY])[TALLY]
        if counts.shape != (len(Tally()),) or counts.dtype != np.int64:
            raise UserError(f"{self._file(shard)}: holds another tally than score writes; {_FIX}")
        return Tally(*counts.tolist())

    def _load(self, shard: int, names: list[str]) -> dict[str, NDArray[Any]]:
        file = self._file(shard)
        try:
            # An .npz is read array by array, so that only those that are asked for cost time.
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in names}
        except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise UserError(f"{file}: cannot be read ({one_line(error, 100)}); {_FIX}") from None

    def _file(self, shard: int) -> Path:
        return self.path / f"{shard:05d}.npz"
