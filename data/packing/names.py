"""Which columns have the image and the texts, if the settings do not say so: by usual names."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from align_train.errors import UserError, shown, shown_names

from ..tables.rows import Table
from .settings import PackSettings
from .template import Template

# Letters may be capitals. data/README.md has these lists too.
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
TEXTS = (
    "text",
    "texts",
    "caption",
    "captions",
    "sentence",
    "sentences",
    "sentences.raw",
    "title",
    "alt",
    "alt_text",
    "comment",
    "description",
    "sidecar",
)

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
    texts = settings.text or [_only(TEXTS, table.columns, table, "text=[…]")]
    return Names(Template(os.path.expanduser(path)), list(texts))


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
