"""A table, whatever its form: rows with texts, plain cells and an image or its path.

The forms stand beside this module, one a file; `open.py` decides which one a file has. They are for
tables of pairs that people make. The filter's queries go through an engine instead.

A column of texts has a text in each row, or a list of several, or bytes, which are decoded as
UTF-8. Numbers and structs are no texts: a column of them is refused by its name. Columns that name
an image or choose rows may hold numbers, dates and the like too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from align_train.errors import UserError, shown, shown_names

NO_PYARROW = "reading parquet and Arrow needs pyarrow: pip install 'align_train[prepare]'"
NOT_UTF8 = "is not UTF-8 ({}); convert it, e.g. with iconv -f latin1 -t utf-8"

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
    cells: Sequence[str] = ()
    image: str | None = None

    @property
    def plain(self) -> list[str]:
        """The columns that a table without images reads as cells, each once."""
        image = [] if self.image is None else [self.image]
        return list(dict.fromkeys([*self.cells, *image]))

    @property
    def all(self) -> list[str]:
        """All columns, each once."""
        return list(dict.fromkeys([*self.texts, *self.plain]))


class Table(Protocol):
    """Rows that can be read, wherever they come from.

    Attributes:
        name: The table's path or name, for errors.
        form: In words, such as `tab-separated`.
        columns: The names of those that hold values; one within another is `outer.inner`.
        images: The names of those that hold images themselves.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def form(self) -> str: ...  # noqa: D102

    @property
    def columns(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def images(self) -> Sequence[str]: ...  # noqa: D102

    def rows(self, asked: Asked) -> Iterator[Row]:
        """Reads the columns that are asked for.

        Raises:
            UserError: A column is missing or of a wrong type, or a row is broken.
        """


def check_columns(table: object, names: Sequence[str], wanted: Sequence[str]) -> None:
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


def decoded(data: bytes) -> str | NoText:
    """The text of some bytes, if they are UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return NoText(NOT_DECODED)
