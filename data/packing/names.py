"""Which columns have the image and the texts, if the settings do not say so: by usual names."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from align_train.errors import UserError, shown, shown_names
from align_train.shards.usual_names import FIELDS

from ..tables.rows import Table
from .settings import PackSettings
from .template import Template

# Letters may be capitals. docs/packing.md has these lists too.
PATHS = (
    "path",
    "file_name",
    "filename",
    "filepath",
    "file_path",
    "file",
    "image",
    "img",
    "image_path",
    "img_path",
    "image_file",
    "image_name",
    "jpg",
    "png",
    "webp",
)
TEXTS = (*FIELDS, "sidecar")

# Several captions of an image, a column each: `caption_0`, `caption1`, `Caption 2`.
_NUMBERED = re.compile(r"(\D+?)[_ .-]?([0-9]{1,4})")

# Karpathy's JSON of COCO splits a path in two. Elsewhere a `filepath` is a whole path.
_SPLIT_PATH = {"filepath", "filename", "sentences.raw"}


@dataclass(frozen=True)
class Names:
    """The columns of images and texts.

    Attributes:
        path: The image's.
        texts: Those with texts.
    """

    path: Template
    texts: list[str]

    def __str__(self) -> str:
        return f"path={shown(self.path.pattern)}, text=[{shown_names(self.texts)}]"


def names_in(table: Table, settings: PackSettings) -> Names:
    """Finds the columns that the settings name, or else those of usual names.

    Raises:
        UserError: None has a usual name, or several have one; or `path` is no pattern.
    """
    path = settings.path or _path_in(table)
    texts = settings.text or _texts_in(table)
    return Names(Template(os.path.expanduser(path)), list(texts))


def _texts_in(table: Table) -> list[str]:
    """The column of a usual name, or else those of a usual name and a number: `caption_0`, …."""
    families: dict[str, list[tuple[int, str]]] = {}
    for column in dict.fromkeys(table.columns):
        numbered = _NUMBERED.fullmatch(column)
        if numbered and numbered[1].lower() in TEXTS:
            families.setdefault(numbered[1], []).append((int(numbered[2]), column))

    has_plain = any(column.lower() in TEXTS for column in table.columns)
    if has_plain or not families:
        return [_only(TEXTS, table.columns, table, "text=[…]")]
    if len(families) > 1:
        firsts = [min(family)[1] for family in families.values()]
        raise UserError(
            f"{table.name}: columns such as {shown_names(firsts)} may all be meant; choose with "
            f"text=[…]"
        )
    (family,) = families.values()
    # By number: `caption_10` comes after `caption_2`.
    return [column for _, column in sorted(family)]


def _path_in(table: Table) -> str:
    # Images that are there need no path.
    if len(table.images) == 1:
        return table.images[0]
    usual = [name for name in table.images if name.lower() in PATHS]
    if len(usual) == 1:
        return usual[0]
    if table.images:
        raise UserError(
            f"{table.name} has images in {shown_names(table.images)}; choose one, path="
            f"{shown(table.images[0])}"
        )

    if _SPLIT_PATH.issubset(table.columns):
        return "{filepath}/{filename}"
    return _only(PATHS, table.columns, table, "path=…")


def _only(usual: Collection[str], columns: Sequence[str], table: Table, setting: str) -> str:
    """The only column with a usual name.

    One in small letters comes before others: TEXT is another column beside text.
    """
    # Twice the same name is refused when it is read.
    exact = [column for column in dict.fromkeys(columns) if column in usual]
    found = exact or [column for column in columns if column.lower() in usual]
    if len(found) == 1:
        return found[0]

    if found:
        raise UserError(
            f"{table.name}: {shown_names(found)} may all be meant; choose with {setting}"
        )
    has_lines = table.form.endswith("-separated")
    hint = "; if the first line is a row already, name the columns: columns=[path,text]"
    raise UserError(
        f"{table.name} has no column of a usual name for {setting}; it has "
        f"{shown_names(columns) or 'none'}; choose one{hint if has_lines else ''}"
    )
