"""A folder of images with a metadata.csv, .jsonl or .parquet: Hugging Face's imagefolder.

The table lies at the top, in folders of splits (`train/metadata.csv`), or in both. Its column
`file_name` starts from the table's own folder. `split` is the folder at the top that an image lies
in, if the table has no column of that name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from align_train.errors import UserError, shown_names
from align_train.shards.find import Found
from align_train.shards.left_out import LeftOut

from ..tables.open import open_table
from ..tables.rows import Asked, Row, Table
from ..tables.several import SeveralTables

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")

_FILE_NAME = "file_name"
_SPLIT = "split"


class ImageFolder:
    """Images and their table; `Table` explains the attributes."""

    images: Sequence[str] = ()

    def __init__(
        self, folder: Path, found: Found, metadata: Sequence[Path], left_out: LeftOut
    ) -> None:
        """Opens the tables.

        Args:
            folder: The folder.
            found: The images in it, at any depth, and all other files.
            metadata: The tables, at least one.
            left_out: Counts images without a row, and other files.

        Raises:
            UserError: A table has no `file_name`, or other columns than the first.
        """
        self.name = str(folder)
        self._folder = folder
        self._found = found
        self._metadata = metadata
        self._left_out = left_out
        self._tables = [open_table(path) for path in metadata]
        names_of_files = [_file_name_in(table) for table in self._tables]
        self._file_name = names_of_files[0]
        several = SeveralTables(self.name, self._tables)
        self._has_split = _SPLIT in several.columns
        self.columns = [*several.columns, *([] if self._has_split else [_SPLIT])]
        names = dict.fromkeys(os.path.relpath(path, folder) for path in metadata)
        self.form = f"images with {shown_names(names)}"

    def rows(self, asked: Asked) -> Iterator[Row]:
        """Reads the rows; paths start from the folder then."""
        # The name of the file is always read: it says which images have a row.
        cells = dict.fromkeys([*asked.plain, self._file_name])
        if not self._has_split:
            # No column of the tables: `_moved` adds it to each row.
            cells.pop(_SPLIT, None)
        inner = Asked(asked.texts, list(cells))

        seen: set[str] = set()
        for path, table in zip(self._metadata, self._tables, strict=True):
            below = path.parent.relative_to(self._folder)
            for row in table.rows(inner):
                yield self._moved(row, below, f"{table.name}, {row.place}", seen)
        self._count_others(seen)

    def _moved(self, row: Row, below: PurePath, place: str, seen: set[str]) -> Row:
        """A row whose path starts from the whole folder."""
        name = row.cells[self._file_name]
        cells = dict(row.cells)
        if name is not None and name.strip():
            # So that `./a.png` and `a.png` are the same image.
            name = os.path.normpath(below / name)
            seen.add(name)
            cells[self._file_name] = name

        if not self._has_split:
            parts = PurePath(name or "").parts
            cells[_SPLIT] = parts[0] if len(parts) > 1 else None
        return replace(row, place=place, cells=cells)

    def _count_others(self, seen: set[str]) -> None:
        self._left_out.update(self._found.left_out)
        for path in self._found.files:
            is_lone = str(path.relative_to(self._folder)) not in seen
            self._left_out.add("images without a row", path, count=int(is_lone))
        for path in self._found.others:
            self._left_out.add(
                "files without an image", path, count=int(path not in self._metadata)
            )


def _file_name_in(table: Table) -> str:
    """The column that names the images, whose letters may be capitals."""
    found = [column for column in table.columns if column.lower() == _FILE_NAME]
    if _FILE_NAME in found:
        return _FILE_NAME
    if len(found) == 1:
        return found[0]
    raise UserError(
        f"{table.name} has no column '{_FILE_NAME}', which names the images of its folder; it has "
        f"{shown_names(table.columns)}"
    )
