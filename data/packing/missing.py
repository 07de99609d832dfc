"""Images that are not where the source says: refused, or by choice left out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from align_train.errors import UserError, shown_names
from align_train.shards.left_out import are, counted

from .images import ImageFile, Pair
from .left_out import LeftOutList

MISSING = "missing images"
HOW_TO_SKIP = "skip_missing=true leaves out those that are missing, and lists them"

_NAMED = 3


def without_missing(
    pairs: Sequence[Pair], root: Path | str, *, skip: bool, left_out: LeftOutList
) -> list[Pair]:
    """Looks for each image file.

    Args:
        pairs: All of them. Images at URLs are not looked for before they are fetched.
        root: The folder that paths start from, for the error.
        skip: Whether to leave out pairs without an image, if there are others.
        left_out: Counts these.

    Returns:
        The pairs whose image is there.

    Raises:
        UserError: Images are missing, and are not to be skipped.
    """
    there: list[Pair] = []
    missing: list[str] = []
    for pair in pairs:
        # Not `Path.is_file`: a text in place of a path may be too long for a name.
        if isinstance(pair.image, ImageFile) and not os.path.isfile(pair.image.path):
            missing.append(pair.image.name)
        else:
            there.append(pair)

    if missing and not (skip and there):
        found = _folder_with(missing[:_NAMED], root)
        where = f"they are in {found}: root={found}" if found else "check path and root"
        how = f"{where}{f', or: {HOW_TO_SKIP}' if there else ''}"
        raise UserError(
            f"{len(missing):,} of {counted(len(pairs), 'image')} {are(len(missing))} missing, "
            f"first {shown_names(missing[:_NAMED])} in {root}; {how}"
        )
    for name in missing:
        left_out.add(MISSING, name)
    return there


def _folder_with(names: Sequence[str], root: Path | str) -> Path | None:
    """The folder directly below the root that has all these images; None: there is none."""
    if not isinstance(root, Path) or not root.is_dir():
        return None
    with os.scandir(root) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir())
    for folder in folders:
        if all(os.path.isfile(root / folder / name) for name in names):
            return root / folder
    return None
