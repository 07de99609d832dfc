"""The rows of a table as texts: TSV, CSV, parquet; one at a time, for tables that people write by hand."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import ListConfig

from align_train.errors import UserError

NOT_UTF8 = "is not UTF-8 ({}); convert it, e.g. with iconv -f latin1 -t utf-8"


Row = dict[str, str]


def places(source: Any, key: str) -> list[str]:
    """A setting that is a path or a list of these; Hydra takes a folder called 2024 for a number."""
    listed = list(source) if isinstance(source, list | tuple | ListConfig) else [source]
    if not listed or any(
        isinstance(item, bool) or not isinstance(item, str | int | float) for item in listed
    ):
        raise UserError(f"{key}={source}: expected a path or a list of paths")
    return [str(item) for item in listed]


def rows_of_table(table: Path) -> Iterator[Row]:
    suffix = table.suffix.lower()
    if suffix == ".parquet":
        try:
            from data.tables.find import batches
        except ImportError:
            raise UserError(
                "reading parquet needs pyarrow: pip install 'align_train[prepare]'"
            ) from None
        for batch in batches(table):
            for row in batch.to_pylist():
                yield {name: "" if value is None else str(value) for name, value in row.items()}
        return
    if suffix not in (".tsv", ".csv"):
        raise UserError(f"source={table}: expected a folder or a .tsv, .csv or .parquet table")
    csv.field_size_limit(2**31 - 1)
    with table.open(
        newline="", encoding="utf-8-sig"
    ) as file:  # spreadsheets begin a CSV with a byte order mark
        # In a TSV a quotation mark is a quotation mark.
        tsv = suffix == ".tsv"
        reader = csv.DictReader(
            file,
            delimiter="\t" if tsv else ",",
            quoting=csv.QUOTE_NONE if tsv else csv.QUOTE_MINIMAL,
        )
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(
                        f"{table}, line {reader.line_num}: expected {len(reader.fieldnames or [])} columns"
                    )
                yield dict(row)
        except UnicodeDecodeError as error:
            raise UserError(f"{table}: {NOT_UTF8.format(error)}") from None
        except csv.Error as error:
            raise UserError(f"{table}, line {reader.line_num}: {error}; is it a table?") from None


def cell(row: Row, column: str, table: Path) -> str:
    if column not in row:
        raise UserError(f"{table} has no column {column!r}; it has {', '.join(row)}")
    return row[column] or ""
