"""The setting `names`: only the images that a file lists, such as Flickr_8k.trainImages.txt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from align_train.errors import UserError, printable, shown, shown_names
from align_train.shards.left_out import LeftOut, counted
from align_train.shards.remote import is_url

from ..tables.rows import NOT_UTF8

_NAMED = 3


class Listed:
    """The images that are listed; all of them, if there is no list."""

    def __init__(self, path: str | None) -> None:
        """Reads the list.

        Args:
            path: A file with a name on each line; None: there is no list.

        Raises:
            UserError: There is no such file here, or nothing in it, or it is no text.
        """
        if path is not None and is_url(path):
            raise UserError(f"names={shown(path)}: expected a file here; download it first")
        self._path = printable(path or "")
        self._listed = dict.fromkeys(() if path is None else _lines(Path(path).expanduser()))
        self._is_all = path is None
        self._met: set[str] = set()
        self._taken: set[str] = set()
        self._others: set[str] = set()

    def takes(self, name: str) -> bool:
        """Whether an image is taken. name: the one in the source, which may be a path."""
        if self._is_all:
            return True

        # Lists of Flickr30k have no endings.
        path = PurePosixPath(name)
        spelled = (name, path.name, str(path.with_suffix("")) if path.name else "", path.stem)
        met = [one for one in spelled if one in self._listed]
        # All spellings that fit: a list may have one image with and without its ending.
        self._met.update(met)
        (self._taken if met else self._others).add(name)
        return bool(met)

    def refuse_none(self) -> None:
        """Refuses a list that names no image of the source: most probably it is another's."""
        if not self._is_all and not self._taken and self._others:
            raise UserError(
                f"names={self._path}: no image of the source is in that list; it has "
                f"{shown_names(list(self._listed)[:_NAMED])}, the source "
                f"{shown_names(sorted(self._others)[:_NAMED])}"
            )

    def notes(self) -> Iterator[str]:
        """Yields a line that counts the images in the list, and those that are not in it."""
        if not self._is_all:
            yield (
                f"names={self._path}: {counted(len(self._taken), 'image')} taken, "
                f"{len(self._others):,} not in the list"
            )

    def count_absent(self, left_out: LeftOut) -> None:
        """Counts the names without an image."""
        for name in self._listed:
            left_out.add("names without an image", name, count=int(name not in self._met))


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"names={path} {NOT_UTF8.format(error)}") from None
    except OSError as error:
        raise UserError(
            f"names={shown(str(path))}: {error.strerror}; give a file with a name on each line"
        ) from None

    lines = [line.strip() for line in text.splitlines()]
    names = [line for line in lines if line]
    if not names:
        raise UserError(f"names={path}: no names in it; expected a name on each line")
    return names
