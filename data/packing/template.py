"""The setting `path`: which columns make the path of an image."""

from __future__ import annotations

from string import Formatter

from align_train.errors import UserError

from ..tables.rows import Row


class Template:
    """A column, or a pattern of columns such as `noto/{code}.png`.

    Attributes:
        columns: Those that the pattern names, in its order.
        image: The column that is the whole path, or holds the images themselves; None if the
            pattern has more to it.
    """

    def __init__(self, pattern: str) -> None:
        """Reads the pattern; UserError if it is none."""
        self.pattern = pattern
        # A name in braces is a column's, whatever it is: `{img.path}` is no attribute of `img`.
        try:
            # A plain column is the simplest pattern.
            parsed = list(Formatter().parse(pattern)) if "{" in pattern else [("", pattern, "", "")]
        except ValueError:
            raise self._wrong() from None

        self.parts = [(literal, column) for literal, column, _, _ in parsed]
        self.columns = [column for _, column in self.parts if column is not None]
        self.image = None if "{" in pattern else pattern
        has_more = any(spec or conversion for _, _, spec, conversion in parsed)
        if has_more or not all(self.columns) or not self.columns:
            raise self._wrong()

    def _wrong(self) -> UserError:
        return UserError(
            f"path={self.pattern}: expected a column, or a pattern such as 'path=\"{{code}}.png\"'"
        )

    def fill(self, row: Row) -> str | None:
        """The path of a row's image; None if the row has none."""
        path = ""
        for literal, column in self.parts:
            value = row.cells[column] if column is not None else ""
            if value is None or (column is not None and not value.strip()):
                return None
            path += literal + value
        return path
