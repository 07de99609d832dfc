"""Columns of scores: folders that `align_train.score` made, joined by the shard's name and the key.

A score is looked up by its key, never by its place: the scores may be of more shards, of an earlier
selection, or in another order. A row without a score has no value.

Price: the scores of a shard are read and written once as parquet, with the rows' numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from tqdm import tqdm

from align_train.errors import UserError, shown
from align_train.files import whole
from align_train.index.looked_up import Keys, looked_up
from align_train.index.scores import SCORES, Scores

from ..tables.engine import ROWS_PER_FILE
from ..tables.find import Tables
from ..tables.paths import paths_of
from ..tables.tars import KEY, stem_of

FOLDER = "scores"  # of the joined scores


@dataclass(frozen=True)
class Scored:
    """The folders of scores that belong to a source.

    Attributes:
        folders: The scores.
        tables: The source.
    """

    folders: tuple[Scores, ...]
    tables: Tables

    @property
    def names(self) -> list[str]:
        """The columns, each of one folder."""
        return [name for scores in self.folders for name in scores.header.columns]

    def as_json(self) -> list[str]:
        """Which scores they are: a hash of what each folder was made with."""
        files = (scores.path / SCORES for scores in self.folders)
        return [hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files]

    def write(self, columns: Mapping[str, str], folder: Path) -> None:
        """Writes a parquet file of (row, …) for each file of the source that has scores.

        Args:
            columns: For each name that the rules use, the column of scores.
            folder: Is made if it is missing. Files of an earlier attempt stay.
        """
        folder.mkdir(exist_ok=True)
        shards = [_by_stem(scores) for scores in self.folders]
        files = enumerate(self.tables.files)
        bar = tqdm(files, total=len(self.tables.files), desc="joining scores", delay=1)
        for index, file in bar:
            to = folder / file.name
            if not to.exists():
                self._write_file(index, shards, columns, to)

    def _write_file(
        self, index: int, shards: Sequence[Mapping[str, int]], columns: Mapping[str, str], to: Path
    ) -> None:
        keys = self._keys(index)
        arrays: dict[str, pa.Array] = {
            "row": pa.array(index * ROWS_PER_FILE + np.arange(len(keys), dtype=np.int64))
        }
        for name, column in columns.items():
            values = np.full(len(keys), np.nan, dtype=np.float32)
            for scores, shard_of in zip(self.folders, shards, strict=True):
                shard = shard_of.get(to.stem)
                if shard is not None and column in scores.header.columns:
                    scored, of_column = scores.read(shard)
                    values = looked_up(keys, scored, of_column[column])
            arrays[name] = pa.array(values)

        with whole(to) as aside:
            parquet.write_table(pa.table(arrays), aside)

    def _keys(self, index: int) -> Keys:
        """The keys of a file's rows."""
        tars = self.tables.tars
        if tars is not None:
            return tars.keys(tars.manifest.shards[index])
        keys = parquet.read_table(self.tables.files[index], columns=[KEY])[KEY].to_pylist()
        return np.array([(key or "").encode() for key in keys], dtype=np.bytes_)


def open_scores(setting: object, tables: Tables) -> Scored | None:
    """Opens the folders of scores.

    Args:
        setting: A folder, a list of folders, or None.
        tables: The source.

    Raises:
        UserError: A folder has no scores, or none of the source; or two have the same column.
    """
    if setting is None:
        return None
    folders = [Scores.open(Path(path).expanduser()) for path in paths_of(setting, "scores")]
    if not tables.shards and tables.tars is None:
        raise UserError(
            f"scores={shown(setting)}: belong to shards, and source is a table of URLs; give "
            f"source=SHARDS"
        )

    here = {file.stem for file in tables.files}
    seen = dict.fromkeys(tables.types, "the source")
    for scores in folders:
        stems = _by_stem(scores)
        if not here & stems.keys():
            raise UserError(
                f"scores={scores.path}: are of other shards ({scores.header.shards[0]}, …; "
                f"the source has {tables.files[0].stem}, …)"
            )
        for name in scores.header.columns:
            other = seen.setdefault(name, str(scores.path))
            if other != str(scores.path):
                raise UserError(
                    f"scores={scores.path}: the column {shown(name)} is in {other} too; leave one "
                    f"out"
                )
    return Scored(tuple(folders), tables)


def _by_stem(scores: Scores) -> dict[str, int]:
    """The index of each shard by its name without the ending."""
    return {stem_of(name): index for index, name in enumerate(scores.header.shards)}
