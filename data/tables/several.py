"""Several files of the same form as one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from align_train.errors import UserError, shown_names
from align_train.shards.left_out import counted

from .rows import Asked, Row, Table


class SeveralTables:
    """Tables with the same columns, one after the other; `Table` explains the attributes."""

    def __init__(self, name: str, tables: Sequence[Table]) -> None:
        """Takes open tables.

        Args:
            name: What the source calls all of them.
            tables: At least one.

        Raises:
            UserError: One has other columns than the first.
        """
        self.name = name
        self._tables = tables
        first = tables[0]
        self.columns = first.columns
        self.images = first.images

        for table in tables:
            # In any order: each table is read by the names.
            if set(table.columns) != set(first.columns) or set(table.images) != set(first.images):
                raise UserError(
                    f"{table.name} has the columns {shown_names(table.columns)}, but {first.name} "
                    f"has {shown_names(first.columns)}; tables of one source have the same ones"
                )
        forms = dict.fromkeys(table.form for table in tables)
        self.form = f"{counted(len(tables), 'file')}, {' and '.join(forms)}"

    def rows(self, asked: Asked) -> Iterator[Row]:
        """Reads the rows of all."""
        for table in self._tables:
            for row in table.rows(asked):
                yield replace(row, place=f"{table.name}, {row.place}")
