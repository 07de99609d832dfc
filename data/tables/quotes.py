"""The rows of delimited text, strictly: a quotation mark that nobody closes swallows no rows.

Python's reader is lenient. After `"a 5 inch screen` it takes all that follows, line breaks
included, for the same cell, up to the next quotation mark anywhere in the file. Here a quoted cell
ends before a delimiter or a line break, or it is refused, with the line where it opened. Line
breaks and doubled quotation marks in quotes stay possible, and `5" wide` needs no quotes.

Between tabs, and between bars, a quotation mark is a character like any other, unless the whole
cell stands in quotes and those within it are doubled, as spreadsheets write it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

from align_train.errors import UserError

_LONGEST_CELL = 2**31 - 1  # characters; the csv module stops at 131,072 by itself


def rows_of_quoted(
    lines: Iterable[str], table: object, delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    """Reads rows whose cells may stand in quotes.

    Args:
        lines: The file's, with their line breaks.
        table: Its path, for errors.
        delimiter: Stands between two cells.

    Yields:
        The number of the line that the row begins in, and the row's cells; none of empty lines.

    Raises:
        UserError: A quotation mark is not closed.
    """
    # For the whole process: the module has no limit for a single reader.
    csv.field_size_limit(_LONGEST_CELL)
    record: list[str] = []
    reader = csv.reader(_kept(lines, record), strict=True, delimiter=delimiter)
    first = 1

    while True:
        record.clear()
        try:
            row = next(reader, None)
        except csv.Error as error:
            opened = first + _line_of_open_quote(record, delimiter)
            if opened < first:
                raise UserError(f"{table}, line {first}: {error}; is it a table?") from None
            raise UserError(
                f"{table}, line {opened}: a cell begins with a quotation mark, and none ends it "
                f"before a {NAMES[delimiter]} or the line's end; close it, or double those within "
                f"the text"
            ) from None

        if row is None:
            return
        if row:
            yield first, row
        first = reader.line_num + 1


def rows_of_lines(
    lines: Iterable[str], table: object, delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    """Reads rows of one line each; `rows_of_quoted` explains the parameters.

    Yields:
        The number of the row's line, and its cells; none of empty lines.

    Raises:
        UserError: A line is no text.
    """
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    try:
        for row in reader:
            if row:
                yield reader.line_num, [_unquoted(cell) for cell in row]
    except csv.Error as error:
        raise UserError(f"{table}, line {reader.line_num}: {error}; is it a table?") from None


NAMES = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}
"""The delimiters that tables have, in words."""


def _unquoted(cell: str) -> str:
    """A cell without the quotes around it, if those within it are doubled."""
    if len(cell) < 2 or cell[0] != '"' or cell[-1] != '"':
        return cell

    inner = cell[1:-1]
    doubled = inner.replace('""', "")
    return cell if '"' in doubled else inner.replace('""', '"')


def _kept(lines: Iterable[str], record: list[str]) -> Iterator[str]:
    """Keeps the lines of the row that is being read."""
    for line in lines:
        record.append(line)
        yield line


def _line_of_open_quote(record: Iterable[str], delimiter: str) -> int:
    """Finds the last cell that a quotation mark opens and none closes well.

    Args:
        record: The lines of one row.
        delimiter: Stands between two cells.

    Returns:
        The index of its line; -1 if there is none.
    """
    # Python's reader does not say in which line a quote opened: the row is read again for that.
    opened = -1
    state = "start"  # of a cell; or "plain", "quoted", or "closed"
    for index, line in enumerate(record):
        for letter in line:
            if state == "quoted":
                state = "closed" if letter == '"' else "quoted"
            elif letter == '"' and state == "closed":
                state = "quoted"  # of two quotation marks, which stand for one
            elif letter == delimiter or letter in "\r\n":
                state = "start"
            elif letter == '"' and state == "start":
                state = "quoted"
                opened = index
            elif state == "closed":
                return opened
            else:
                state = "plain"
    return opened if state == "quoted" else -1
