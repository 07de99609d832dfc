"""From rows to pairs: an image with its different texts, whichever rows they stand in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from align_train.errors import UserError
from align_train.shards.caption import is_unicode
from align_train.shards.left_out import LeftOut

from ..tables.rows import NOT_DECODED, NoText, Row, rows_of_table
from .chosen import Chosen
from .folder import rows_of_folder
from .images import Image, Pair, Spool
from .left_out import LeftOutList
from .missing import without_missing
from .remote import Places, root_of
from .settings import PackSettings
from .template import Template

_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Collected:
    """The pairs of a source.

    Attributes:
        pairs: In the source's order.
        rows: How many rows were chosen.
        left_out: Counts all that is in the source and in no pair.
    """

    pairs: list[Pair]
    rows: int
    left_out: LeftOutList = field(default_factory=LeftOutList)


def collect(settings: PackSettings, spool: Spool, named: Callable[[str], str] = str) -> Collected:
    """Finds all images with their texts.

    Args:
        settings: Those of the command.
        spool: Keeps the images that stand in the table itself.
        named: From a line to one with the names that the user knows: a source may have been
            fetched.

    Raises:
        UserError: A column, a value or an image is missing, or no image has a text.
    """
    left_out = LeftOutList()
    source = Path(settings.source).expanduser()
    columns = settings.text or (["sidecar"] if source.is_dir() else ["text"])
    chosen = Chosen(settings.where, source)
    template = Template(os.path.expanduser(settings.path))
    folder = source if source.is_dir() else source.parent
    root = root_of(settings.root) or folder
    places = Places(root, settings.storage_options or {})

    rows = _open(settings, source, columns, [*template.columns, *chosen.wanted], left_out)
    count = 0
    # A dict keeps the order of the first row of each image.
    texts_of: dict[Image, list[str]] = {}
    for row in rows:
        if row not in chosen:
            continue
        count += 1
        image = _image_of(row, template, places, spool)
        if image is None:
            left_out.add("rows without a path", row.place)
            continue

        texts = texts_of.setdefault(image, [])
        for column in columns:
            _add_texts(texts, row, column, settings.separator, left_out)
    chosen.refuse_unmet()
    chosen.say()

    # An image without a text is no pair.
    for image, texts in texts_of.items():
        left_out.add("images without a text", image.name, count=int(not texts))
    pairs = [Pair(image, texts) for image, texts in texts_of.items() if texts]
    if not pairs:
        instead = f"; there are {left_out}" if left_out.total() else ""
        raise UserError(
            f"source={settings.source}: no images with a text in {', '.join(columns)}{instead}"
        )

    there = without_missing(pairs, root, skip=settings.skip_missing, left_out=left_out)
    return Collected(there, count, left_out)


def _image_of(row: Row, template: Template, places: Places, spool: Spool) -> Image | None:
    """The image of a row; None if the row has neither bytes nor a path."""
    if row.image is not None:
        return spool.keep(row.image.data, row.image.name)

    filled = template.fill(row)
    return None if filled is None else places.image(filled)


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
