"""A folder of images as a table: a row for each image, found by its content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from align_train.shards.find import Found, find_files
from align_train.shards.image_kind import is_image
from align_train.shards.left_out import LeftOut

from ..tables.rows import NOT_DECODED, NoText, Row, check_columns

COLUMNS = ("path", "sidecar", "folder", "name")

_NO_SIDECAR = "missing"


def rows_of_folder(
    folder: Path, *, texts: Sequence[str], cells: Sequence[str], left_out: LeftOut
) -> Iterator[Row]:
    """Reads a folder: `sidecar` is the text of the .txt file beside an image.

    Args:
        folder: Is searched at any depth.
        texts: The columns to read as texts.
        cells: The columns to read as plain cells.
        left_out: Counts the files that are neither an image nor the text of one.

    Yields:
        The rows, by the order of their paths.

    Raises:
        UserError: A column is none of `COLUMNS`.
    """
    check_columns(folder, COLUMNS, [*texts, *cells])
    found = find_files(folder, is_image, deep=True)
    left_out.update(found.left_out)
    sidecars = _sidecars(found)

    for path in found.files:
        sidecar = sidecars.get(path.with_suffix(""))
        text = _read(sidecar) if sidecar else NoText(_NO_SIDECAR)
        values: dict[str, str | NoText] = {
            "path": str(path.relative_to(folder)),
            "sidecar": text,
            "folder": path.parent.name,
            "name": path.stem,
        }
        yield Row(
            values["path"] if isinstance(values["path"], str) else "",
            {column: _cell(values[column]) for column in cells},
            {column: [values[column]] for column in texts},
        )

    used = {path.with_suffix("") for path in found.files}
    for path in found.others:
        if path.suffix.lower() != ".txt":
            left_out.add("files without an image", path)
        elif path.with_suffix("") not in used:
            left_out.add("texts without an image", path)


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
