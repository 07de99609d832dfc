"""The rows of a table as texts: TSV, CSV or parquet, one row at a time.

This is for tables that people write by hand. The filter's queries go through an engine instead.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from align_train.errors import UserError

NO_PYARROW = "reading parquet needs pyarrow: pip install 'align_train[prepare]'"
NOT_UTF8 = "is not UTF-8 ({}); convert it, e.g. with iconv -f latin1 -t utf-8"

_LONGEST_CELL = 2**31 - 1  # characters; the csv module stops at 131,072 by itself

Row = dict[str, str]


def rows_of_table(table: Path) -> Iterator[Row]:
    """Reads a table by the rules of its suffix.

    Args:
        table: A .tsv, .csv or .parquet file whose columns have names.

    Yields:
        A text for each column; "" for a null.

    Raises:
        UserError: The file is no table, or not UTF-8, or reading it needs pyarrow.
    """
    suffix = table.suffix.lower()

    if suffix == ".parquet":
        yield from _rows_of_parquet(table)
    elif suffix in (".tsv", ".csv"):
        yield from _rows_of_text(table, tabs=suffix == ".tsv")
    else:
        raise UserError(f"source={table}: expected a folder or a .tsv, .csv or .parquet table")


def cell(row: Row, column: str, table: Path) -> str:
    """The text of one column.

    Raises:
        UserError: The table has no such column.
    """
    if column not in row:
        raise UserError(f"{table} has no column {column!r}; it has {', '.join(row)}")
    return row[column] or ""


def _rows_of_parquet(table: Path) -> Iterator[Row]:
    try:
        from data.tables.batches import batches
    except ImportError:
        raise UserError(NO_PYARROW) from None

    for batch in batches(table):
        for row in batch.to_pylist():
            yield {name: "" if value is None else str(value) for name, value in row.items()}


def _rows_of_text(table: Path, *, tabs: bool) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_CELL)

    # Spreadsheets begin a CSV with a byte order mark, which utf-8-sig skips.
    with table.open(newline="", encoding="utf-8-sig") as file:
        if tabs:
            # In a TSV a quotation mark is a character like any other.
            reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        else:
            reader = csv.DictReader(file)

        try:
            for row in reader:
                # DictReader puts cells too many under None, and None into cells too few.
                if None in row or None in row.values():
                    raise UserError(
                        f"{table}, line {reader.line_num}: expected "
                        f"{len(reader.fieldnames or [])} columns"
                    )
                yield dict(row)
        except UnicodeDecodeError as error:
            raise UserError(f"{table}: {NOT_UTF8.format(error)}") from None
        except csv.Error as error:
            raise UserError(f"{table}, line {reader.line_num}: {error}; is it a table?") from None
