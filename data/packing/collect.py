"""From rows to pairs: an image with its different texts, whichever rows they stand in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from align_train.errors import UserError, printable, shown_names
from align_train.shards.caption import is_unicode
from align_train.shards.left_out import LeftOut, counted

from ..tables.rows import NOT_DECODED, Asked, NoText, Row, Table
from .chosen import Chosen
from .folder import ImagesAndTexts
from .images import Image, Pair, Spool
from .left_out import LeftOutList
from .listed import Listed
from .missing import without_missing
from .names import Names, names_in
from .remote import Places
from .separator import Separator
from .settings import PackSettings
from .source import open_source, reading

_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Collected:
    """The pairs of a source.

    Attributes:
        pairs: In the source's order.
        rows: How many rows were chosen.
        notes: What the user should know of the texts, a line each.
        left_out: Counts all that is in the source and in no pair.
    """

    pairs: list[Pair]
    rows: int
    notes: list[str] = field(default_factory=list)
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
    listed = Listed(settings.names)
    source = open_source(settings, left_out)
    places = Places(source.root, settings.storage_options or {})
    table = source.table
    names = names_in(table, settings)
    chosen = Chosen(settings.where, table)
    separator = Separator(settings.separator)

    cells = [column for column in names.path.columns if column != names.path.image]
    asked = Asked(names.texts, [*cells, *chosen.columns], names.path.image)
    total, count = 0, 0
    # Dicts keep the order of the first row of each image, and of its texts, which may be thousands.
    texts_of: dict[Image, dict[str, None]] = {}
    with reading(table.name):
        for row in table.rows(asked):
            total += 1
            name = names.path.fill(row) if row.image is None else row.image.name
            if row not in chosen or not (name is None or listed.takes(name)):
                continue
            count += 1
            if name is None:
                left_out.add("rows without a path", row.place)
                continue

            image = places.image(name) if row.image is None else spool.keep(row.image.data, name)
            texts = texts_of.setdefault(image, {})
            for column in names.texts:
                _add_texts(texts, row, column, separator, left_out)
    chosen.refuse_unmet()
    said = f"{names}, {table.form}, {counted(total, 'row')}"
    if isinstance(table, ImagesAndTexts):
        said = f"{total:,} {table.said(names.texts)}"
    print(named(f"{printable(table.name)}: {said}"))
    chosen.say()
    for line in listed.notes():
        print(line)
    listed.refuse_none()
    listed.count_absent(left_out)

    # An image without a text is no pair.
    for image, texts in texts_of.items():
        left_out.add("images without a text", image.name, count=int(not texts))
    pairs = [Pair(image, list(texts)) for image, texts in texts_of.items() if texts]
    if not pairs:
        raise _no_pairs(settings, table, names, left_out)
    there = without_missing(pairs, source.root, skip=settings.skip_missing, left_out=left_out)
    return Collected(there, count, list(separator.notes()), left_out)


def _no_pairs(settings: PackSettings, table: Table, names: Names, left_out: LeftOut) -> UserError:
    instead = f"; there are {left_out}" if left_out.total() else ""
    if isinstance(table, ImagesAndTexts):
        instead += f"; {table.instead(settings)}"
    return UserError(
        f"source={settings.source}: no images with a text in {shown_names(names.texts)}{instead}"
    )


def _add_texts(
    texts: dict[str, None], row: Row, column: str, separator: Separator, left_out: LeftOut
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

        stripped = [part.strip().strip(_BYTE_ORDER_MARK).strip() for part in separator.parts(value)]
        if not any(stripped):
            left_out.add("blank texts" if value else "empty texts", row.place)
        for text in stripped:
            if text:
                texts[text] = None
