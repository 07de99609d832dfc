"""The interface of the engines that run the filter's queries.

DuckDB runs on this machine and is the default; Spark runs on this machine or on a cluster. An
engine opens parquet files as one table of numbered rows, saves tables as folders of parquet files,
and says how far a query is. All queries are Ibis (`data/filter/rules.py`,
`data/filter/statistics.py`), so that both engines run the same definition.

Both number the rows alike: 2^32 x the file's index in the source + the row's index in the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ibis.expr.types import IntegerValue, StringValue, Table

from align_train.errors import UserError

ROWS_PER_FILE = 2**32  # more than any file has, so that an index in a file fits below it

STATUS = "status"  # the column of img2dataset's tables that says whether a row has an image
NUMBER = "__row_number__"  # the column of the rows' numbers

# Names that engines give to facts about a row: a source's column of that name would hide them.
TAKEN = (
    NUMBER,
    "file_index",
    "file_row_number",
    "filename",
    "_metadata",
    "__file_name__",
    "__row_index__",
    "__file_number__",
)


class EngineFailed(UserError):
    """A query failed on the disk or on a file; the engine does not always say on which file."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The table to filter.

    Attributes:
        files: Parquet files, in the order that numbers their rows.
        columns: For each name that the rules use, the column and the type to read it as.
        nulls: Whether some file has nothing but nulls in one of the columns, hence no type for it.
        only_success: Leave out the rows of img2dataset's tables that have no image.
    """

    files: Sequence[Path]
    columns: Mapping[str, tuple[str, str]]
    nulls: bool = False
    only_success: bool = False

    def select(self, table: Table) -> Table:
        """Gives the columns the names that the rules use, and the row's number the name `row`."""
        if self.only_success:
            table = table.filter(table[STATUS] == "success")
        # Cast here: files of other types then compare alike on both engines.
        named = {name: table[column].cast(kind) for name, (column, kind) in self.columns.items()}
        return table.select(row=table[NUMBER], **named)


class Engine(Protocol):
    """Runs Ibis queries on parquet files."""

    name: str

    def open(self, source: Source) -> Table:
        """Opens the source as a table of `row` and the source's columns."""

    def save(self, table: Table, folder: Path) -> None:
        """Writes a table as parquet files into a new folder."""

    def load(self, *paths: Path) -> Table:
        """Opens parquet files, and folders of them, as one table."""

    def from_hex(self, digits: StringValue) -> IntegerValue:
        """Reads at most eight hexadecimal digits as a number."""

    def progress(self) -> float:
        """The share of the running query that is done, as far as the engine knows."""

    def version(self) -> str:
        """The engine's name and version."""
