"""The rows of a table: TSV, CSV or parquet, one row at a time.

This is for tables that people write by hand. The filter's queries go through an engine instead.

A column of texts has a text in each row, or a list of several, or bytes, which are decoded as
UTF-8. Numbers and structs are no texts: a column of them is refused by its name. Columns that name
an image or choose rows may hold numbers, dates and the like too.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from align_train.errors import UserError, shown, shown_names

from .quotes import rows_of_csv

if TYPE_CHECKING:
    import pyarrow as pa

NO_PYARROW = "reading parquet needs pyarrow: pip install 'align_train[prepare]'"
NOT_UTF8 = "is not UTF-8 ({}); convert it, e.g. with iconv -f latin1 -t utf-8"

_LONGEST_CELL = 2**31 - 1  # characters; the csv module stops at 131,072 by itself

# What stands in place of a text that is none; each is a reason, as it follows a number.
NULL = "null"
NOT_DECODED = "not UTF-8"


@dataclass(frozen=True, slots=True)
class NoText:
    """Stands for a text that is none.

    Attributes:
        reason: `NULL` or `NOT_DECODED`.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """An image that stands in a row itself.

    Attributes:
        data: The image.
        name: The path that the row has beside it, or else the row in its table.
    """

    data: bytes
    name: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        place: The line or row in the table, for errors.
        cells: The cell of each plain column that was asked for; None for a null.
        texts: The texts of each text column that was asked for.
        image: The row's image. None: the cells say where it lies.
    """

    place: str
    cells: dict[str, str | None]
    texts: dict[str, list[str | NoText]]
    image: ImageBytes | None = None


@dataclass(frozen=True)
class Asked:
    """The columns that are wanted of a table. A reader reads no others.

    Attributes:
        texts: Those to read as texts.
        cells: Those to read as plain cells.
        image: The one that holds images, or their paths, by its type: bytes, or a struct of bytes
            and a path, become the row's image; a path becomes a cell. None: images are files, whose
            paths are filled from cells.
    """

    texts: Sequence[str]
    cells: Sequence[str]
    image: str | None = None


class Table(Protocol):
    """Rows that can be read, wherever they come from.

    Attributes:
        name: The table's path or name, for errors.
        form: In words, such as `tab-separated`.
        columns: Their names; one that lies in another is `outer.inner`.
    """

    name: str
    form: str
    columns: Sequence[str]

    def rows(self, asked: Asked) -> Iterator[Row]:
        """Reads the columns that are asked for.

        Raises:
            UserError: A column is missing or of a wrong type, or a row is broken.
        """


def rows_of_table(table: Path, *, texts: Sequence[str], cells: Sequence[str]) -> Iterator[Row]:
    """Reads a table by the rules of its suffix.

    Args:
        table: A .tsv, .csv or .parquet file whose columns have names.
        texts: The columns to read as texts.
        cells: The columns to read as plain cells.

    Yields:
        The rows, with these columns alone.

    Raises:
        UserError: The file is no table, or not UTF-8, reading it needs pyarrow, or it has no such
            column, or one of another type.
    """
    suffix = table.suffix.lower()

    if suffix == ".parquet":
        yield from _rows_of_parquet(table, texts, cells)
    elif suffix in (".tsv", ".csv"):
        yield from _rows_of_text(table, texts, cells, tabs=suffix == ".tsv")
    else:
        raise UserError(f"source={table}: expected a folder or a .tsv, .csv or .parquet table")


def check_columns(table: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuses a table without a column that is wanted, or with two of that name.

    Raises:
        UserError: Names the column.
    """
    for column in wanted:
        if column not in names:
            raise UserError(
                f"{table} has no column '{shown(column)}'; it has {shown_names(names) or 'none'}"
            )
        if names.count(column) > 1:
            raise UserError(f"{table} has two columns '{shown(column)}'; rename one")


def _rows_of_parquet(table: Path, texts: Sequence[str], cells: Sequence[str]) -> Iterator[Row]:
    try:
        from .batches import batches, schema_of
    except ImportError:
        raise UserError(NO_PYARROW) from None

    schema = schema_of(table)
    check_columns(table, schema.names, [*texts, *cells])
    for column in texts:
        _check_type(table, column, schema.field(column).type, are_texts=True)
    for column in cells:
        _check_type(table, column, schema.field(column).type, are_texts=False)

    number = 0
    for batch in batches(table, list(dict.fromkeys([*texts, *cells]))):
        for values in batch.to_pylist():
            number += 1
            yield Row(
                f"row {number}",
                {column: _cell(values[column], table, column) for column in cells},
                {column: _texts(values[column]) for column in texts},
            )


def _check_type(table: Path, column: str, kind: pa.DataType, *, are_texts: bool) -> None:
    from pyarrow import types

    inner = kind.value_type if types.is_dictionary(kind) else kind
    inner = getattr(inner, "storage_type", inner)  # of an extension type
    is_list = types.is_list(inner) or types.is_large_list(inner) or types.is_fixed_size_list(inner)
    if are_texts and is_list:
        inner = inner.value_type

    is_text = types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner)
    is_bytes = types.is_binary(inner) or types.is_large_binary(inner) or types.is_null(inner)
    is_plain = not are_texts and not types.is_nested(inner)
    if not (is_text or is_bytes or is_plain):
        expected = "texts, lists of texts, or bytes" if are_texts else "texts or numbers"
        raise UserError(
            f"{table}: the column '{shown(column)}' is {shown(str(kind))}; expected {expected}"
        )


def _cell(value: object, table: Path, column: str) -> str | None:
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(
                f"{table}: the column '{shown(column)}' holds bytes that are no text: "
                f"{shown(value)}"
            ) from None
    # In a column of numbers pandas writes NaN for a null.
    is_nan = isinstance(value, float) and value != value
    return None if value is None or is_nan else str(value)


def _texts(value: object) -> list[str | NoText]:
    """The texts of a cell, whose column has one of the types of texts."""
    texts: list[str | NoText] = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, bytes):
            texts.append(_decoded(item))
        else:
            texts.append(item if isinstance(item, str) else NoText(NULL))
    return texts


def _decoded(data: bytes) -> str | NoText:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return NoText(NOT_DECODED)


def _rows_of_text(
    table: Path, texts: Sequence[str], cells: Sequence[str], *, tabs: bool
) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_CELL)

    # Spreadsheets begin a CSV with a byte order mark, which utf-8-sig skips.
    with table.open(newline="", encoding="utf-8-sig") as file:
        # In a TSV a quotation mark is a character like any other.
        reader = _rows_of_tsv(file, table) if tabs else rows_of_csv(file, table)
        try:
            _, names = next(reader, (0, []))
            check_columns(table, names, [*texts, *cells])
            for line, row in reader:
                if len(row) != len(names):
                    raise UserError(
                        f"{table}, line {line}: expected {len(names)} columns, found {len(row)}"
                    )
                by_name = dict(zip(names, row, strict=True))
                yield Row(
                    f"line {line}",
                    {column: by_name[column] for column in cells},
                    {column: [by_name[column]] for column in texts},
                )
        except UnicodeDecodeError as error:
            raise UserError(f"{table}: {NOT_UTF8.format(error)}") from None


def _rows_of_tsv(file: Iterator[str], table: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{table}, line {reader.line_num}: {error}; is it a table?") from None
