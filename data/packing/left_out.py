"""A complete list of what a packing leaves out, beside the counts of it: `left_out.tsv`.

The line at the command's end has one example of each reason. Who wants to mend a source needs all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from align_train.errors import printable
from align_train.shards.left_out import LeftOut

FILE = "left_out.tsv"
_COLUMNS = ("reason", "count", "name", "why")


class LeftOutList(LeftOut):
    """Counts like `LeftOut`, and keeps a line for each thing; some 150 bytes each."""

    def __init__(self) -> None:
        """Begins with nothing."""
        super().__init__()
        self._lines: list[tuple[str, int, str, str]] = []

    def add(self, reason: str, example: object = "", *, count: int = 1, why: str = "") -> None:
        """Counts something, and keeps its name.

        Args:
            reason: Follows the number in the line, as in `LeftOut`.
            example: Its name, or that of the first of several.
            count: How much of it.
            why: More than the reason says, such as a server's answer.
        """
        super().add(reason, example, count=count)
        # Callers add a count of 0 in place of a condition of their own.
        if count:
            self._lines.append((reason, count, str(example), why))

    def write(self, folder: Path, named: Callable[[str], str]) -> None:
        """Writes the list as a table, if there is anything in it.

        Args:
            folder: Where the table goes.
            named: From a name to that which the user knows.
        """
        if not self._lines:
            return

        # By hand: `csv` refuses quotation marks that it may not quote. Tabs and line breaks in a
        # name are spelled as Python spells them.
        with (folder / FILE).open("w", encoding="utf-8", newline="") as file:
            print(*_COLUMNS, sep="\t", file=file)
            for reason, count, name, why in self._lines:
                print(reason, count, printable(named(name)), printable(why), sep="\t", file=file)
