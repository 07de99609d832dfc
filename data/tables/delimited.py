"""Text with a delimiter: tabs, commas, semicolons or bars between cells, a row a line.

The delimiter is found by the first lines, whatever the file is called. A wrong guess is not silent:
it is said, and a row with another number of cells is refused with its line.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from align_train.errors import UserError, shown

from .quotes import NAMES, rows_of_lines, rows_of_quoted
from .rows import NOT_UTF8, Asked, Row, check_columns

# Which delimiter wins among equals, after that of the file's ending.
_DELIMITERS = ("\t", ",", ";", "|")
_OF_ENDING = {".csv": ",", ".tsv": "\t", ".tab": "\t"}

# In these a quoted cell may hold the delimiter and line breaks.
_QUOTED = (",", ";")

_SAMPLE = 200  # lines


class DelimitedText:
    """A table of text; `Table` explains the attributes.

    Between bars, blanks around a cell are not its own: `a.jpg| 0| A dog .`
    """

    images: Sequence[str] = ()

    def __init__(self, path: Path, columns: Sequence[str] = ()) -> None:
        """Finds the delimiter and the columns.

        Args:
            path: The file, UTF-8, with a byte order mark or without.
            columns: The names of the columns, if the first line is a row already.

        Raises:
            UserError: The file has no line, or is not UTF-8; or no delimiter gives so many columns.
        """
        self.name = str(path)
        self._path = path
        self._has_header = not columns
        self._delimiter = self._sniff(columns)
        self.form = f"{NAMES[self._delimiter]}-separated"

        _, first = next(self._read(), (0, []))
        self.columns = list(columns) or [name.strip() for name in first]

    def rows(self, asked: Asked) -> Iterator[Row]:
        """Reads the rows; a line with another number of cells is refused."""
        cells, texts = asked.plain, asked.texts
        check_columns(self.name, self.columns, asked.all)
        # Each name is there once: `check_columns` has refused others.
        index_of = {column: self.columns.index(column) for column in asked.all}

        for line, row in islice(self._read(), int(self._has_header), None):
            if len(row) != len(self.columns):
                raise self._uneven(line, len(row))
            yield Row(
                f"line {line}",
                {column: row[index_of[column]] for column in cells},
                {column: [row[index_of[column]]] for column in texts},
            )

    def _uneven(self, line: int, found: int) -> UserError:
        word = NAMES[self._delimiter]
        if found < len(self.columns):
            fix = "add the cells that are missing, or remove the line"
        elif self._is_quoted():
            fix = f"a cell that holds a {word} stands in quotes"
        else:
            fix = "remove the extra cells"
        return UserError(
            f"{self.name}, line {line}: expected {len(self.columns)} columns between {word}s, "
            f"found {found}; {fix}"
        )

    def _is_quoted(self) -> bool:
        return self._delimiter in _QUOTED

    def _read(self) -> Iterator[tuple[int, list[str]]]:
        """Yields the number of each row's line, and its cells."""
        read = rows_of_quoted if self._is_quoted() else rows_of_lines
        for number, row in read(self._lines(), self.name, self._delimiter):
            if _is_empty(row):
                continue
            yield number, [cell.strip() for cell in row] if self._delimiter == "|" else row

    def _lines(self) -> Iterator[str]:
        try:
            # Spreadsheets begin a CSV with a byte order mark, which utf-8-sig skips.
            with self._path.open(newline="", encoding="utf-8-sig") as file:
                yield from file
        except UnicodeDecodeError as error:
            raise UserError(f"{self.name}: {NOT_UTF8.format(error)}") from None

    def _sniff(self, columns: Sequence[str]) -> str:
        """Finds the delimiter that gives most of the first rows as many cells as the header has."""
        sample = list(islice(self._lines(), _SAMPLE))
        if not any(line.strip() for line in sample):
            raise UserError(f"{self.name} has no rows; check the path")

        usual = _OF_ENDING.get(self._path.suffix.lower(), "\t")
        shares: dict[str, float] = {}
        for delimiter in dict.fromkeys((usual, *_DELIMITERS)):
            counts = _counts(sample, delimiter)
            expected = len(columns) or (counts[0] if counts else 0)
            # One cell means that this delimiter does not occur at all.
            if expected > 1 and expected in counts:
                shares[delimiter] = counts.count(expected) / len(counts)

        if not shares and len(columns) > 1:
            raise UserError(
                f"columns={shown(list(columns))}: no line of {self.name} has {len(columns)} cells "
                f"between tabs, commas, semicolons or bars; its first is {shown(sample[0].strip())}"
            )
        # The first of the best ones: a dict keeps its order. None: a table of one column.
        return max(shares, key=lambda delimiter: shares[delimiter], default=usual)


def _counts(sample: Sequence[str], delimiter: str) -> list[int]:
    """How many cells each row of a sample has."""
    # Lenient: this only counts. Nothing is lost, because the strict reader reads it all again.
    if delimiter in _QUOTED:
        reader = csv.reader(sample, delimiter=delimiter)
    else:
        reader = csv.reader(sample, delimiter=delimiter, quoting=csv.QUOTE_NONE)

    counts: list[int] = []
    with suppress(csv.Error):
        counts += [len(row) for row in reader if not _is_empty(row)]
    return counts


def _is_empty(row: Sequence[str]) -> bool:
    """Whether a line has nothing but blanks. A line of delimiters alone is not empty."""
    return not row or (len(row) == 1 and not row[0].strip())
