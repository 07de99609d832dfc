"""A folder of images as a table: a row for each image, found by its content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from align_train.errors import shown_names
from align_train.shards.find import Found
from align_train.shards.left_out import LeftOut

from ..tables.rows import NOT_DECODED, Asked, NoText, Row, check_columns
from .instead import table_instead
from .settings import PackSettings

_NO_SIDECAR = "missing"

# What the columns are, as it follows "texts from".
_MEANINGS = {
    "path": "their paths",
    "sidecar": "the .txt files beside them",
    "folder": "the names of their folders",
    "name": "their own names",
}


class ImagesAndTexts:
    """A folder of images as a table; `Table` explains the attributes.

    `path` starts from the folder; `sidecar` is the text of the .txt file beside an image, `folder`
    the name of its folder, and `name` its own, without the ending.
    """

    form = "images and .txt files"
    columns = tuple(_MEANINGS)
    images = ()

    def __init__(self, folder: Path, found: Found, left_out: LeftOut) -> None:
        """Reads nothing yet.

        Args:
            folder: The folder.
            found: The images in it, at any depth, and all other files.
            left_out: Counts the files that are neither an image nor the text of one.
        """
        self.name = str(folder)
        self._folder = folder
        self._found = found
        self._left_out = left_out

    def said(self, texts: Sequence[str]) -> str:
        """What the folder is read as. texts: the columns that are taken as texts."""
        meanings = [_MEANINGS.get(column, column) for column in texts]
        return f"images, texts from {' and '.join(meanings)} (text=[{shown_names(texts)}])"

    def instead(self, settings: PackSettings) -> str:
        """How to pack the folder, if its images have no texts."""
        return table_instead(self._folder, self._found, settings)

    def rows(self, asked: Asked) -> Iterator[Row]:
        """Reads the rows, by the order of their paths."""
        check_columns(self.name, self.columns, asked.all)
        sidecars = _sidecars(self._found)

        for path in self._found.files:
            values: dict[str, str | NoText] = {
                "path": str(path.relative_to(self._folder)),
                "folder": path.parent.name,
                "name": path.stem,
            }
            if "sidecar" in asked.all:
                sidecar = sidecars.get(path.with_suffix(""))
                values["sidecar"] = _read(sidecar) if sidecar else NoText(_NO_SIDECAR)
            yield Row(
                str(values["path"]),
                {column: _cell(values[column]) for column in asked.plain},
                {column: [values[column]] for column in asked.texts},
            )
        self._count_others()

    def _count_others(self) -> None:
        self._left_out.update(self._found.left_out)
        images = {path.with_suffix("") for path in self._found.files}
        for path in self._found.others:
            if path.suffix.lower() != ".txt":
                self._left_out.add("files without an image", path)
            elif path.with_suffix("") not in images:
                self._left_out.add("texts without an image", path)


def _sidecars(found: Found) -> dict[Path, Path]:
    """The .txt files by their paths without the ending; `a.txt` comes before `a.TXT`."""
    texts = [path for path in found.others if path.suffix.lower() == ".txt"]
    # In a dict the last of equal keys stays.
    texts.sort(key=lambda path: path.suffix == ".txt")
    return {path.with_suffix(""): path for path in texts}


def _read(path: Path) -> str | NoText:
    # Notepad begins a text with a byte order mark, which utf-8-sig skips.
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return NoText(NOT_DECODED)
    except OSError:
        return NoText("unreadable")


def _cell(value: str | NoText) -> str | None:
    return value if isinstance(value, str) else None
