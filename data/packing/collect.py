"""From rows to pairs: an image with its different texts, whichever rows they stand in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter

from align_train.errors import UserError, shown
from align_train.shards.caption import is_unicode
from align_train.shards.left_out import LeftOut

from ..tables.rows import NOT_DECODED, NoText, Row, rows_of_table
from .folder import rows_of_folder
from .settings import PackSettings

Pair = tuple[Path, list[str]]

_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Collected:
    """The pairs of a source.

    Attributes:
        pairs: (path of the image, its different texts), in the source's order.
        rows: How many rows were chosen.
        left_out: Counts all that is in the source and in no pair.
    """

    pairs: list[Pair]
    rows: int
    left_out: LeftOut = field(default_factory=LeftOut)


def collect(settings: PackSettings) -> Collected:
    """Finds all images with their texts.

    Raises:
        UserError: A column, a value or an image is missing, or no image has a text.
    """
    left_out = LeftOut()
    source = Path(settings.source).expanduser()
    columns = settings.text or (["sidecar"] if source.is_dir() else ["text"])
    chosen = _Chosen(settings.where, source)
    template = _Template(os.path.expanduser(settings.path))

    rows = _open(settings, source, columns, [*template.columns, *chosen.wanted], left_out)
    count = 0
    # A dict keeps the order of the first row of each image.
    texts_of: dict[Path, list[str]] = {}
    for row in rows:
        if row not in chosen:
            continue
        count += 1
        filled = template.fill(row)
        if filled is None:
            left_out.add("rows without a path", row.place)
            continue

        texts = texts_of.setdefault(Path(filled), [])
        for column in columns:
            _add_texts(texts, row, column, settings.separator, left_out)
    chosen.refuse_unmet()

    # An image without a text is no pair.
    for path, texts in texts_of.items():
        left_out.add("images without a text", path, count=int(not texts))
    pairs = {path: texts for path, texts in texts_of.items() if texts}
    if not pairs:
        instead = f"; there are {left_out}" if left_out.total() else ""
        raise UserError(
            f"source={settings.source}: no images with a text in {', '.join(columns)}{instead}"
        )

    folder = source if source.is_dir() else source.parent
    root = Path(settings.root).expanduser() if settings.root else folder
    _refuse_missing(list(pairs), root)
    return Collected([(root / path, texts) for path, texts in pairs.items()], count, left_out)


def _open(
    settings: PackSettings,
    source: Path,
    texts: Sequence[str],
    cells: Sequence[str],
    left_out: LeftOut,
) -> Iterable[Row]:
    if source.is_dir():
        return rows_of_folder(source, texts=texts, cells=cells, left_out=left_out)
    if source.is_file():
        return rows_of_table(source, texts=texts, cells=cells)
    raise UserError(f"source={settings.source}: no such folder or table (.tsv, .csv, .parquet)")


class _Template:
    """The setting `path`: a column, or a pattern of columns such as `noto/{code}.png`."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        # A name in braces is a column's, whatever it is: `{img.path}` is no attribute of `img`.
        try:
            # A plain column is the simplest pattern.
            parsed = list(Formatter().parse(pattern)) if "{" in pattern else [("", pattern, "", "")]
        except ValueError:
            raise self._wrong() from None

        self.parts = [(literal, column) for literal, column, _, _ in parsed]
        self.columns = [column for _, column in self.parts if column is not None]
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


class _Chosen:
    """The rows that the setting `where` asks for; remembers which values it has met."""

    def __init__(self, where: Mapping[str, object], table: Path) -> None:
        self.table = table
        self.wanted = {column: _values(column, value) for column, value in where.items()}
        self.unmet = {column: set(values) for column, values in self.wanted.items()}

    def __contains__(self, row: Row) -> bool:
        # Each value is met by itself, whether or not the row's other columns fit.
        for column, values in self.unmet.items():
            values.discard(row.cells[column] or "")
        return all((row.cells[column] or "") in values for column, values in self.wanted.items())

    def refuse_unmet(self) -> None:
        """Refuses a value that no row has: most probably it is misspelt."""
        for column, values in self.unmet.items():
            if values:
                raise UserError(
                    f"where.{column}: no row of {self.table} has '{shown(sorted(values)[0])}' there"
                )


def _values(column: str, setting: object) -> list[str]:
    values = setting if isinstance(setting, list) else [setting]
    if not values or any(item is None or isinstance(item, list | dict) for item in values):
        raise UserError(
            f"where.{column}={setting}: expected a value, or a list of values, of that column"
        )
    return [str(item) for item in values]


def _add_texts(
    texts: list[str], row: Row, column: str, separator: str | None, left_out: LeftOut
) -> None:
    """Adds the texts of a cell that are not there yet, and counts those that are none."""
    values = row.texts[column]
    left_out.add("empty lists of texts", row.place, count=int(not values))

    for value in values:
        if isinstance(value, NoText):
            left_out.add(f"{value.reason} texts", row.place)
            continue
        # JSON and names of files may hold what is no UTF-8.
        if not is_unicode(value):
            left_out.add(f"{NOT_DECODED} texts", row.place)
            continue

        parts = value.split(separator) if separator else [value]
        stripped = [part.strip().strip(_BYTE_ORDER_MARK).strip() for part in parts]
        if not any(stripped):
            left_out.add("blank texts" if value else "empty texts", row.place)
        for text in stripped:
            if text and text not in texts:
                texts.append(text)


def _refuse_missing(paths: Sequence[Path], root: Path) -> None:
    # Not `Path.is_file`: a text in place of a path may be too long for a name.
    missing = [path for path in paths if not os.path.isfile(root / path)]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(paths)} images are missing, first {shown(str(missing[0]))} in "
            f"{root}; check path and root"
        )
