"""What a folder is, if it is no folder of images with .txt files beside them."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from align_train.errors import UserError, printable
from align_train.shards.find import Found
from align_train.shards.manifest import MANIFEST_NAME

from ..tables.open import COLUMNAR_ENDINGS, DELIMITED_ENDINGS, JSON_ENDINGS, open_table
from ..tables.rows import Asked, Table
from .names import Names, names_in
from .settings import PackSettings

_ENDINGS = (*DELIMITED_ENDINGS, *COLUMNAR_ENDINGS, *JSON_ENDINGS)
_MOST_OPENED = 20  # files that may be a table

_NO_TABLE = (
    "texts are .txt files beside the images; text=[folder] takes the folders' names; "
    "a search needs no texts: align-train embed images=FOLDER"
)


def refuse_shards(folder: Path, found: Found) -> None:
    """Refuses a folder of WebDataset's tars, whose manifest would be read as a table otherwise.

    Args:
        folder: The folder.
        found: The images in it, and all other files.

    Raises:
        UserError: Says what to do with shards.
    """
    tars = [path.name for path in found.others if path.suffix.lower() == ".tar"]
    # Beside our own shards lies an image: their contact sheet.
    if tars and (not found.files or (folder / MANIFEST_NAME).is_file()):
        raise UserError(
            f"source={folder}: these are shards ({printable(tars[0])}), which need no packing: "
            f"align-train manifest {shlex.quote(f'shards={folder}')}; or unpack the tars, if they "
            f"hold images without texts"
        )


def table_instead(folder: Path, found: Found, settings: PackSettings) -> str:
    """Says how to pack a folder of images without texts: by a table in it, if one is there.

    Args:
        folder: The folder.
        found: The images in it, and all other files.
        settings: Those of the command.
    """
    images = {path.with_suffix("") for path in found.files}
    others = [path for path in found.others if path.with_suffix("") not in images]
    # A table lies at the top most probably.
    others.sort(key=lambda path: len(path.parts))

    for path in others[:_MOST_OPENED]:
        try:
            table = open_table(path)
            return _command(path, _root(path, found, table, names_in(table, settings)))
        except (UserError, OSError):
            # No table, or none with usual names: the next file may be one.
            continue
    for path in others:
        if path.name.lower().endswith(_ENDINGS):
            return _command(path, None)
    return _NO_TABLE


def _command(path: Path, root: Path | None) -> str:
    words = [f"source={path}", *([f"root={root}"] if root else [])]
    return f"{printable(str(path))} looks like a table: give {printable(shlex.join(words))}"


def _root(path: Path, found: Found, table: Table, names: Names) -> Path | None:
    """The folder from which the table's first path leads to an image; None: no need to say it."""
    common = Path(os.path.commonpath([image.parent for image in found.files]))
    cells = [column for column in names.path.columns if column != names.path.image]
    first = next(table.rows(Asked(names.texts, cells, names.path.image)), None)
    if first is None:
        raise UserError(f"{path} has no rows")
    if first.image is not None:
        return None

    name = names.path.fill(first) or ""
    is_there = (path.parent / name).is_file()
    return common if not is_there and (common / name).is_file() else None
