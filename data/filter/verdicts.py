"""The engine's verdicts, read back in the order of rows.

Verdicts are parquet files of (row, mask) for the failing rows. They are read some at a time, so
that memory holds those of one file of the source.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyarrow import parquet

from ..tables.batches import batches
from ..tables.engine import ROWS_PER_FILE
from ..tables.find import Tables
from .rules import bits
from .scored import scores_file

Integers = NDArray[np.int64]


class FileVerdicts(NamedTuple):
    """The verdicts on one file of the source.

    Attributes:
        file: Its path.
        keep: bool `[rows of the file]`, False for rows that fail a rule.
    """

    file: Path
    keep: NDArray[np.bool_]


class Verdicts:
    """The mask of the rules that each failing row fails."""

    def __init__(
        self, folder: Path, tables: Tables, scores: tuple[Path, Mapping[str, str]] | None = None
    ) -> None:
        """Reads nothing yet.

        Args:
            folder: Parquet files that an engine wrote, in the order of rows.
            tables: The source.
            scores: For examples: the folder of the joined scores, and for each name in its files
                the column.
        """
        self.scores = scores
        self.files = sorted(folder.glob("*.parquet"))
        self.tables = tables

    def by_file(self) -> Iterator[FileVerdicts]:
        """Yields the verdicts on each file of the source, in its order."""
        coming = self._in_order()

        # A batch may reach into the next file: its other rows wait here.
        rows = np.empty(0, np.int64)

        counted = zip(self.tables.files, self.tables.rows, strict=True)
        for index, (file, count) in enumerate(counted):
            first = index * ROWS_PER_FILE
            end = first + ROWS_PER_FILE

            rows = _read_up_to(end, rows, coming)
            in_file = int(np.searchsorted(rows, end))
            keep = np.ones(count, dtype=bool)
            keep[rows[:in_file] - first] = False
            rows = rows[in_file:]
            yield FileVerdicts(file, keep)

    def counts(self) -> Counter[int]:
        """The number of rows that fail with each mask."""
        counts: Counter[int] = Counter()
        for _, masks in self._in_order():
            different, times = np.unique(masks, return_counts=True)
            counts.update(dict(zip(different.tolist(), times.tolist(), strict=True)))
        return counts

    def examples(
        self, names: Sequence[str], number: int, columns: Sequence[str]
    ) -> dict[str, list[dict[str, object]]]:
        """Finds the first `number` rows that fail each rule.

        The first in the source's order, so that every engine gives the same.

        Args:
            names: The rules.
            number: The most examples of each.
            columns: The source's columns to give.

        Returns:
            The examples by rule, in the order of rows.
        """
        bit = bits(names)
        chosen: dict[str, list[int]] = {name: [] for name in names}
        for rows, masks in self._in_order():
            for name, numbers in chosen.items():
                failing = rows[masks & bit[name] > 0]
                numbers += failing[: number - len(numbers)].tolist()
            # Each rule has its examples: the other verdicts need not be read.
            if all(len(numbers) == number for numbers in chosen.values()):
                break

        # A row may be an example of several rules; it is read once.
        different = sorted(set(itertools.chain.from_iterable(chosen.values())))
        records = dict(zip(different, self._records(different, columns), strict=True))

        examples: dict[str, list[dict[str, object]]] = {}
        for name, numbers in chosen.items():
            examples[name] = [records[row] for row in numbers]
        return examples

    def _in_order(self) -> Iterator[tuple[Integers, Integers]]:
        """Yields (rows, masks), never empty.

        The engines sort their verdicts, and the names of their files ascend with the rows.
        """
        for file in self.files:
            for batch in batches(file, ["row", "mask"]):
                if len(batch):
                    yield batch.column("row").to_numpy(), batch.column("mask").to_numpy()

    def _records(
        self, numbers: Sequence[int], columns: Sequence[str]
    ) -> Iterator[dict[str, object]]:
        """Reads the rows of these numbers, which ascend; only their row groups are opened."""
        # A row's number holds the index of its file and its index in the file.
        for index, group in itertools.groupby(numbers, lambda row: row // ROWS_PER_FILE):
            in_file = np.array([row % ROWS_PER_FILE for row in group])
            with parquet.ParquetFile(self.tables.files[index]) as file:
                records = _records_of_file(file, in_file, columns)
                scores = self._scores(index, in_file)
                yield from ({**record, **row} for record, row in zip(records, scores, strict=True))

    def _scores(self, file: int, rows: Integers) -> list[dict[str, float | None]]:
        """The scores of these rows of a file; None stands for no score."""
        if self.scores is None:
            return [{} for _ in rows]
        folder, columns = self.scores
        table = parquet.read_table(scores_file(folder, file)).select(list(columns)).take(rows)
        table = table.rename_columns(list(columns.values()))
        return [dict(zip(row, map(_short, row.values()), strict=True)) for row in table.to_pylist()]


def _short(score: float) -> float | None:
    """A score with as few digits as a float32 has; JSON has no NaN."""
    return None if math.isnan(score) else float(f"{score:.6g}")


def _read_up_to(end: int, rows: Integers, coming: Iterator[tuple[Integers, Integers]]) -> Integers:
    """Adds batches to the rows until one reaches `end`, or no more come."""
    parts = [rows]
    while not len(parts[-1]) or parts[-1][-1] < end:
        batch = next(coming, None)
        if batch is None:
            break
        parts.append(batch[0])
    return np.concatenate(parts)


def _records_of_file(
    file: parquet.ParquetFile, rows: Integers, columns: Sequence[str]
) -> Iterator[dict[str, object]]:
    """Reads the rows of these indices; a row group is the least that parquet reads."""
    # `starts` has the first row of each group, and the end.
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    starts = np.cumsum([0, *sizes])
    groups = np.searchsorted(starts, rows, side="right") - 1

    for group in np.unique(groups):
        in_group = rows[groups == group] - starts[group]
        table = file.read_row_group(int(group), columns=list(columns))
        yield from table.take(in_group).to_pylist()
