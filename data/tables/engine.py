"""What runs the filter's queries: DuckDB on this machine (the default), or Spark, on this machine or a cluster.

An engine opens parquet files as one table whose rows have a number, the same in both; saves tables as folders of parquet files;
and says how far it is. All else is Ibis (`data/rules.py`, `data/sets.py`). DuckDB keeps to its memory limit and spills the rest
to disk. Rows are numbered file by file: number of the file in the sorted list x 2^32 + place in the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ibis.expr.types import IntegerValue, StringValue, Table

from align_train.errors import UserError

ROWS_PER_FILE = 2**32


NUMBER = "__row_number__"


# What engines know of a row besides its columns: a column of such a name would hide it.
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
    """Something went wrong on the way, on the disk or in a file; the engine does not always say in which."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The table to be filtered. files: parquet, in order; columns: what rules call a column -> its name and type there.

    only_success: leave out the rows of img2dataset's tables that have no picture.
    """

    files: Sequence[Path]
    columns: Mapping[str, tuple[str, str]]
    only_success: bool = False

    def select(self, table: Table) -> Table:
        if self.only_success:
            table = table.filter(table.status == "success")
        named = {name: table[column].cast(kind) for name, (column, kind) in self.columns.items()}
        return table.select(row=table[NUMBER], **named)


class Engine(Protocol):
    name: str

    def open(self, source: Source) -> Table:
        """(row, …) with the source's columns."""

    def save(self, table: Table, folder: Path) -> None:
        """Writes a table as parquet files into a new folder."""

    def load(self, *places: Path) -> Table:
        """The rows of parquet files and of folders of them."""

    def from_hex(self, digits: StringValue) -> IntegerValue:
        """The number that at most eight hexadecimal digits stand for."""

    def progress(self) -> float:
        """The share of the running query that is done, as far as the engine knows."""

    def version(self) -> str: ...


def uri(path: Path) -> str:
    """Spark takes a plain path for a glob."""
    return "".join(
        f"\\{letter}" if letter in "{}[]*?\\" else letter for letter in str(path.absolute())
    )
