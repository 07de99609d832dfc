"""The setting `source`: a folder, a file, a glob or a list of files, opened as one table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from align_train.errors import UserError, one_line, shown
from align_train.files import nearest_path
from align_train.shards.find import Found, find_files, path_of
from align_train.shards.image_kind import is_image
from align_train.shards.left_out import LeftOut

from ..tables.open import COLUMNAR_ENDINGS, DELIMITED_ENDINGS, open_table
from ..tables.paths import paths_of
from ..tables.rows import NO_PYARROW, Table
from ..tables.saved_names import NO_DATASETS, is_hub_name, is_saved_dataset
from ..tables.several import SeveralTables
from .folder import ImagesAndTexts
from .imagefolder import METADATA, ImageFolder
from .instead import refuse_shards
from .remote import root_of
from .settings import PackSettings

# Of a folder of tables, the files with the first of these endings that one has.
_TABLES = (COLUMNAR_ENDINGS, DELIMITED_ENDINGS, (".jsonl", ".ndjson"), (".json",))

_LONGEST_NAME = 300  # characters
_LONGEST_REASON = 200


@dataclass(frozen=True)
class Source:
    """A source that is open.

    Attributes:
        table: Its rows.
        root: The folder or URL from which paths of images start.
    """

    table: Table
    root: Path | str


def open_source(settings: PackSettings, left_out: LeftOut) -> Source:
    """Opens the source.

    Args:
        settings: Those of the command.
        left_out: Counts the files in it that are neither a table, an image nor a text of one.

    Raises:
        UserError: There is none, or it is no table.
    """
    listed = paths_of(settings.source, "source")
    root = root_of(settings.root)
    if any(map(is_hub_name, listed)):
        # A data set on the hub has no folder here: its images come in the rows.
        return Source(_of_hub(listed, settings), root or Path())
    _refuse_hub_settings(settings)
    given = [path_of(name) for name in listed]

    if len(given) == 1 and given[0].is_dir():
        folder = given[0]
        return Source(_of_folder(folder, settings, left_out), root or folder)

    files: list[Path] = []
    for path in given:
        files += _files_of(path, left_out)
    table = _opened(files, settings, _name(settings.source))
    return Source(table, root or _common(files))


def _common(files: Sequence[Path]) -> Path:
    """The folder that has all the files."""
    if len({file.parent for file in files}) == 1:
        return files[0].parent
    # Absolute: `commonpath` refuses to mix absolute and relative ones.
    return Path(os.path.commonpath([os.path.abspath(file.parent) for file in files]))


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Names the table in an error of the system: not all of these name a file."""
    try:
        yield
    except OSError as error:
        why = error.strerror or one_line(error, _LONGEST_REASON)
        raise UserError(f"{shown(name, _LONGEST_NAME)}: cannot be read ({why})") from None


def _opened(files: Sequence[Path], settings: PackSettings, name: str) -> Table:
    tables = []
    for file in files:
        with reading(str(file)):
            tables.append(open_table(file, settings.columns))
    return tables[0] if len(tables) == 1 else SeveralTables(name, tables)


def _refuse_hub_settings(settings: PackSettings) -> None:
    for key, value in (
        ("hub_config", settings.hub_config),
        ("hub_revision", settings.hub_revision),
    ):
        if value is not None:
            raise UserError(
                f"{key}={shown(value)}: source={_name(settings.source)} is not on the hub "
                f"(hf:OWNER/NAME); leave {key} out"
            )


def _refuse_columns(settings: PackSettings, what: str) -> None:
    if settings.columns:
        raise UserError(
            f"columns={shown(list(settings.columns))}: source={_name(settings.source)} is {what}, "
            f"whose columns have names already; leave columns out"
        )


def _of_hub(listed: Sequence[str], settings: PackSettings) -> Table:
    if len(listed) > 1:
        raise UserError(f"source={_name(settings.source)}: one name on the hub at a time")
    _refuse_columns(settings, "a data set of the hub")
    # Imported here: pyarrow is in an extra.
    try:
        from ..tables.columnar import ColumnarFile
        from ..tables.hub import HubDataset
    except ImportError:
        raise UserError(NO_DATASETS) from None

    found = HubDataset(listed[0], config=settings.hub_config, revision=settings.hub_revision)
    return ColumnarFile(listed[0], found)


def _of_saved(folder: Path, left_out: LeftOut) -> Table:
    try:
        from ..tables.columnar import ColumnarFile
        from ..tables.saved_dataset import SavedDataset
    except ImportError:
        raise UserError(NO_PYARROW) from None
    return ColumnarFile(folder, SavedDataset(folder, left_out))


def _name(source: object) -> str:
    return ", ".join(map(str, source)) if isinstance(source, list) else str(source)


def _files_of(path: Path, left_out: LeftOut) -> Sequence[Path]:
    if path.is_dir():
        found = find_files(path, is_image, deep=True)
        refuse_shards(path, found)
        files = _tables_among(found, left_out)
        if not files:
            raise UserError(f"source={path}: no table in that folder ({', '.join(_endings())})")
        return files

    # A file that is named may have any ending: `open_table` looks into it.
    found = find_files(path, lambda file: True, deep=False)
    left_out.update(found.left_out)
    if not found.files:
        raise UserError(
            f"source={path}: no such folder or table{nearest_path(path)} "
            f"({', '.join(_endings())}, or other text)"
        )
    return found.files


def _endings() -> list[str]:
    return list(chain.from_iterable(_TABLES))


def _of_folder(folder: Path, settings: PackSettings, left_out: LeftOut) -> Table:
    """A folder is one of images with a table, of images with texts, or of tables alone."""
    # First, because its Arrow files would pass for tables of their own.
    if is_saved_dataset(folder):
        _refuse_columns(settings, "a data set that was saved")
        return _of_saved(folder, left_out)
    found = find_files(folder, is_image, deep=True)
    refuse_shards(folder, found)
    metadata = [path for path in found.others if path.name.lower() in METADATA]
    if metadata:
        _refuse_columns(settings, "a folder of images with a table")
        with reading(str(folder)):
            return ImageFolder(folder, found, metadata, left_out)

    files = [] if found.files else _tables_among(found, left_out)
    if not files:
        _refuse_columns(settings, "a folder of images")
        return ImagesAndTexts(folder, found, left_out)
    return _opened(files, settings, str(folder))


def _tables_among(found: Found, left_out: LeftOut) -> Sequence[Path]:
    """The tables among the files of a folder without images; counts the other files."""
    for endings in _TABLES:
        tables = [path for path in found.others if path.name.lower().endswith(endings)]
        if tables:
            left_out.update(found.left_out)
            others = [path for path in found.others if path not in set(tables)]
            left_out.update(LeftOut.of("files that are no such table", others))
            return tables
    return ()
