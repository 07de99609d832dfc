"""The rows of a parquet file, some at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from align_train.errors import UserError, shown

_LONGEST_LINE = 300  # characters of an error that a message quotes


def batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Reads a file 65,536 rows at a time.

    Args:
        path: A parquet file.
        columns: The columns to read; None means all.

    Yields:
        Batches in the order of the file.

    Raises:
        UserError: The file cannot be read to its end.
    """
    # Opening reads the footer alone: a torn page turns up only here.
    try:
        with parquet.ParquetFile(path) as file:
            yield from file.iter_batches(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: cannot be read to its end ({first_line(error)}); fetch it again or leave "
            f"it out"
        ) from None


def schema_of(path: Path) -> pa.Schema:
    """Reads the columns of a file.

    Raises:
        UserError: It is no parquet file.
    """
    try:
        return parquet.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: not a readable parquet file ({first_line(error)}); fetch it again"
        ) from None


def first_line(error: Exception) -> str:
    """The first line of an error, cut short; Arrow's errors have many, and quote values."""
    lines = (line for line in str(error).splitlines() if line.strip())
    return shown(next(lines, type(error).__name__), _LONGEST_LINE)
