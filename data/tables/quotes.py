"""The rows of a CSV, strictly: a quotation mark that nobody closes swallows no rows.

Python's reader is lenient. After `"a 5 inch screen` it takes all that follows, line breaks
included, for the same cell, up to the next quotation mark anywhere in the file. Here a quoted cell
ends before a comma or a line break, or it is refused, with the line where it opened. Line breaks
and doubled quotation marks in quotes stay possible, and `5" wide` needs no quotes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

from align_train.errors import UserError


def rows_of_csv(lines: Iterable[str], table: object) -> Iterator[tuple[int, list[str]]]:
    """Reads the rows.

    Args:
        lines: The file's, with their line breaks.
        table: Its path, for errors.

    Yields:
        The number of the line that the row begins in, and the row's cells; none of empty lines.

    Raises:
        UserError: A quotation mark is not closed.
    """
    record: list[str] = []
    reader = csv.reader(_kept(lines, record), strict=True)
    first = 1

    while True:
        record.clear()
        try:
            row = next(reader, None)
        except csv.Error as error:
            opened = first + _line_of_open_quote(record)
            if opened < first:
                raise UserError(f"{table}, line {first}: {error}; is it a table?") from None
            raise UserError(
                f"{table}, line {opened}: a cell begins with a quotation mark, and none ends it "
                f"before a comma or the line's end; close it, or double those within the text"
            ) from None

        if row is None:
            return
        if row:
            yield first, row
        first = reader.line_num + 1


def _kept(lines: Iterable[str], record: list[str]) -> Iterator[str]:
    """Keeps the lines of the row that is being read."""
    for line in lines:
        record.append(line)
        yield line


def _line_of_open_quote(record: Iterable[str]) -> int:
    """Finds the last cell that a quotation mark opens and none closes well.

    Args:
        record: The lines of one row.

    Returns:
        The index of its line; -1 if there is none.
    """
    opened = -1
    state = "start"  # of a cell; or "plain", "quoted", or "closed"
    for index, line in enumerate(record):
        for letter in line:
            if state == "quoted":
                state = "closed" if letter == '"' else "quoted"
            elif letter == '"' and state == "closed":
                state = "quoted"  # of two quotation marks, which stand for one
            elif letter in ",\r\n":
                state = "start"
            elif letter == '"' and state == "start":
                state = "quoted"
                opened = index
            elif state == "closed":
                return opened
            else:
                state = "plain"
    return opened if state == "quoted" else -1
