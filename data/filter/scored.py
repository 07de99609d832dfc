"""Columns of scores: folders that `align_train.score` made, joined by the shard's name and the key.

A score is looked up by its key, never by its place: the scores may be of more shards, of an earlier
selection, or in another order. A row without a score has no value. Scores of a shard that changed
since are refused.

Price: the scores of a shard are read and written once as parquet, with the rows' numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from tqdm import tqdm

from align_train.errors import UserError, shown
from align_train.files import whole
from align_train.index.looked_up import Keys
from align_train.index.scored_shards import NamedShard, joined_values, named_shards, scored_places
from align_train.index.scores import SCORES, Scores

from ..tables.engine import ROWS_PER_FILE
from ..tables.find import Tables
from ..tables.paths import paths_of
from ..tables.tars import KEY

FOLDER = "scores"  # of the joined scores


@dataclass(frozen=True)
class Scored:
    """The folders of scores that belong to a source.

    Attributes:
        folders: The scores.
        places: For each folder, where it has the shard of each file of the source; None: nowhere.
        tables: The source.
    """

    folders: tuple[Scores, ...]
    places: tuple[Sequence[int | None], ...]
    tables: Tables

    @property
    def names(self) -> list[str]:
        """The columns, each of one folder."""
        columns = chain.from_iterable(scores.header.columns for scores in self.folders)
        return list(columns)

    def as_json(self) -> list[str]:
        """Which scores they are: a hash of what each folder was made with."""
        files = (scores.path / SCORES for scores in self.folders)
        return [hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files]

    def write(self, columns: Mapping[str, str], folder: Path) -> None:
        """Writes a parquet file of (row, …) for each file of the source.

        Args:
            columns: For each name that the rules use, the column of scores.
            folder: Is made if it is missing. Files of an earlier attempt stay.
        """
        folder.mkdir(exist_ok=True)
        files = range(len(self.tables.files))
        for index in tqdm(files, desc="joining scores", delay=1):
            to = scores_file(folder, index)
            if not to.exists():
                self._write_file(index, columns, to)

    def _write_file(self, index: int, columns: Mapping[str, str], to: Path) -> None:
        keys = self._keys(index)
        arrays: dict[str, pa.Array] = {
            # As engines number the rows, which these scores are joined to.
            "row": pa.array(index * ROWS_PER_FILE + np.arange(len(keys), dtype=np.int64))
        }
        # One folder at most has a column of a shard. Its file is read once for all columns.
        values = joined_values(self.folders[0], None, keys, columns.values())
        for scores, places in zip(self.folders, self.places, strict=True):
            wanted = [column for column in values if column in scores.header.columns]
            if places[index] is not None and wanted:
                values |= joined_values(scores, places[index], keys, wanted)
        arrays |= {name: pa.array(values[column]) for name, column in columns.items()}

        with whole(to) as aside:
            parquet.write_table(pa.table(arrays), aside)

    def _keys(self, index: int) -> Keys:
        """The keys of a file's rows."""
        tars = self.tables.tars
        if tars is not None:
            return tars.keys(tars.manifest.shards[index])
        keys = parquet.read_table(self.tables.files[index], columns=[KEY])[KEY].to_pylist()
        return np.array([(key or "").encode() for key in keys], dtype=np.bytes_)


def open_scores(setting: object) -> tuple[Scores, ...]:
    """Opens the folders of scores.

    Args:
        setting: A folder, a list of folders, or None.

    Raises:
        UserError: A folder has no scores.
    """
    if setting is None:
        return ()
    return tuple(Scores.open(Path(path).expanduser()) for path in paths_of(setting, "scores"))


def match_scores(folders: Sequence[Scores], tables: Tables) -> Scored | None:
    """Finds the source's shards in the folders.

    Args:
        folders: As `open_scores` gives them; None comes back if there are none.
        tables: The source.

    Raises:
        UserError: A folder has no scores of the source, or of what a shard was before; or two have
            the same column.
    """
    if not folders:
        return None
    if not tables.shards and tables.tars is None:
        raise UserError(
            f"scores={folders[0].path}: belong to shards, and source is a table of URLs; give "
            f"source=SHARDS"
        )

    shards = _shards_of(tables)
    places = tuple(scored_places(scores, shards) for scores in folders)
    for scores, found in zip(folders, places, strict=True):
        if set(found) == {None}:
            raise UserError(
                f"scores={scores.path}: are of other shards ({shown(scores.header.shards[0])}, …; "
                f"the source has {shown(shards[0].name)}, …)"
            )
        # A rule names a column alone, so two of a name could not be told apart.
        for name in sorted(tables.types.keys() & scores.header.columns.keys()):
            raise UserError(
                f"scores={scores.path}: the source has a column {shown(name)} of its own; leave "
                f"one out"
            )
    _refuse_scored_twice(folders, places, shards)
    return Scored(tuple(folders), places, tables)


def _refuse_scored_twice(
    folders: Sequence[Scores],
    places: Sequence[Sequence[int | None]],
    shards: Sequence[NamedShard],
) -> None:
    """Refuses two values of a column for one shard. Folders of different shards may share one."""
    for shard, of_folders in zip(shards, zip(*places, strict=True), strict=True):
        seen: dict[str, Scores] = {}
        for scores, place in zip(folders, of_folders, strict=True):
            if place is None:
                continue
            for name in scores.header.columns:
                other = seen.setdefault(name, scores)
                if other is not scores:
                    raise UserError(
                        f"scores={scores.path}: {other.path} has the column {shown(name)} of "
                        f"{shown(shard.name)} too; leave one out"
                    )


def _shards_of(tables: Tables) -> list[NamedShard]:
    """The shard of each file of the source."""
    if tables.tars is not None:
        return named_shards(tables.tars.manifest)
    tars = [file.with_suffix(".tar") for file in tables.files]
    return [NamedShard(tar.name, tar.stat().st_size) for tar in tars]


def scores_file(folder: Path, index: int) -> Path:
    """The joined scores of a file of the source. index: its own; a name may be hidden, or odd."""
    return folder / f"{index:05d}.parquet"
