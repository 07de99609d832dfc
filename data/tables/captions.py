"""Caption files of Flickr8k and Flickr30k: `1000268201.jpg#0`, a tab and a caption, line by line.

They are Flickr8k.token.txt, Flickr8k.lemma.token.txt and results_20130124.token. The number after
`#` counts the captions of an image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from align_train.errors import UserError, shown

from .rows import NOT_UTF8, Asked, Row, check_columns

_LINE = re.compile(r"([^\t]+)#(\d+)[ \t]*\t(.*)", re.DOTALL)


def is_caption(line: str) -> bool:
    """Whether a line is one of this form."""
    return _LINE.fullmatch(line) is not None


class NumberedCaptions:
    """A table of captions; `Table` explains the attributes."""

    form = "captions of the form NAME#NUMBER, tab-separated"
    columns = ("image", "number", "caption")
    images = ()

    def __init__(self, path: Path) -> None:
        """Reads nothing yet.

        Args:
            path: The file, UTF-8.
        """
        self.name = str(path)
        self._path = path

    def rows(self, asked: Asked) -> Iterator[Row]:
        """Reads the rows; a line of another form is refused."""
        check_columns(self.name, self.columns, asked.all)
        try:
            with self._path.open(encoding="utf-8-sig") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield self._row(number, line.rstrip("\n"), asked)
        except UnicodeDecodeError as error:
            raise UserError(f"{self.name}: {NOT_UTF8.format(error)}") from None

    def _row(self, number: int, line: str, asked: Asked) -> Row:
        found = _LINE.fullmatch(line)
        if found is None:
            raise UserError(
                f"{self.name}, line {number}: expected NAME#NUMBER, a tab and a caption, found "
                f"{shown(line)}; mend or remove it"
            )

        values = dict(zip(self.columns, found.groups(), strict=True))
        return Row(
            f"line {number}",
            {column: values[column] for column in asked.plain},
            {column: [values[column]] for column in asked.texts},
        )
