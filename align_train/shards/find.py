"""Finds files: in a folder, by a glob or a brace range, or by name. All rooms find theirs here.

- A folder is walked as `walk.py` says.
- Hidden files and folders, and those that operating systems leave behind (`foreign.py`), are no
  data. A file that is named by itself is taken whatever its name is.
- A path that exists is no pattern, even if it has a bracket or a brace in it.
- `**` stands for any number of folders.

Whatever would have been found but for one of these is counted, for the caller to say.
"""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from align_train.errors import UserError, shown
from align_train.shards.braces import expand_braces
from align_train.shards.foreign import FOREIGN, is_foreign
from align_train.shards.left_out import LeftOut
from align_train.shards.walk import BROKEN_LINK, HIDDEN, Walk, Wanted

MISSING = "missing"
"""The reason for a name of a pattern that is no file; it follows a number."""


@dataclass(frozen=True)
class Found:
    """The files that were found.

    Attributes:
        files: In the order of their paths, each once.
        others: Visible files in the folder that are not wanted, in the same order.
        left_out: Counts those that would have been found, by reason.
    """

    files: tuple[Path, ...]
    others: tuple[Path, ...] = ()
    left_out: LeftOut = field(default_factory=LeftOut)


def ends_with(*endings: str) -> Wanted:
    """Wants files by their names.

    Args:
        endings: Such as `.tar`; upper and lower case are the same.
    """
    return lambda path: path.name.lower().endswith(endings)


def find_files(
    source: str | Path, wanted: Wanted, *, deep: bool, hidden: tuple[str, ...] = (".",)
) -> Found:
    """Finds the files of a setting.

    Args:
        source: A folder, a file, a glob or a brace range.
        wanted: Chooses the files of a folder. Files that the source itself names, by a pattern
            too, are not asked.
        deep: Whether to look in the folders of a folder.
        hidden: The beginnings of names that are hidden.

    Returns:
        The files; none if there are none. `MISSING` is left out if an alternative of a brace names
        a file that does not exist, or is a glob without a match.

    Raises:
        UserError: A brace of the pattern is not closed, or its names are too many; or there can be
            no such path.
    """
    path = path_of(source)
    if os.path.isdir(path):
        walk = Walk(wanted, deep=deep, hidden=hidden)
        walk.through(path)
        return Found(tuple(sorted(walk.files)), tuple(sorted(walk.others)), walk.left_out)
    if os.path.isfile(path):
        return Found((path,))
    return _of_pattern(str(path), hidden)


def path_of(source: str | Path) -> Path:
    """The path of a setting, with a home folder in place of `~`.

    Raises:
        UserError: There is no such user; or no file can have so long a name, and it is no pattern.
    """
    spelt = str(source)
    try:
        path = Path(source).expanduser()
        os.lstat(path)
    except RuntimeError:
        raise UserError(f"{shown(spelt)}: no such user; a name after ~ is a user's") from None
    except (OSError, ValueError) as error:
        is_pattern = "{" in spelt or glob.has_magic(spelt)
        if getattr(error, "errno", None) == errno.ENAMETOOLONG and not is_pattern:
            raise UserError(
                f"{shown(spelt)}: no file can have a name of {len(spelt):,} characters"
            ) from None
    return path


def find_folders(folder: Path, wanted: Wanted) -> Found:
    """Finds the folders that lie directly in a folder.

    Args:
        folder: Exists.
        wanted: Of the hidden files and those of another system, those that it wants are counted.

    Returns:
        The folders as `files`, in the order of their paths; all visible files as `others`.
    """
    walk = Walk(wanted, deep=True, hidden=(".",))
    folders = sorted(path for path, _ in walk.folders_in(folder))
    return Found(tuple(folders), tuple(sorted(walk.files + walk.others)), walk.left_out)


def _of_pattern(pattern: str, hidden: tuple[str, ...]) -> Found:
    """Expands braces first, then globs. A name that exists is no glob."""
    left_out = LeftOut()
    files: set[Path] = set()
    folder, rest = _without_pattern(pattern)

    for name in expand_braces(rest):
        path = Path(folder, name)
        if os.path.isfile(path):
            files.add(path)
            continue

        matched = False
        if glob.has_magic(name):
            matched = _take_matches(str(path), hidden, files, left_out)
        if not matched and name != rest:
            left_out.add(MISSING, path)
    # The order of shards is a part of their identity: never that of the disk.
    return Found(tuple(sorted(files, key=str)), left_out=left_out)


def _take_matches(
    pattern: str, hidden: tuple[str, ...], files: set[Path], left_out: LeftOut
) -> bool:
    """Adds the files of a glob, and counts those that are left out; False if there are neither."""
    # Of an alternative of a brace, the first folders may exist: their brackets are brackets.
    folder, rest = _without_pattern(pattern)
    # `_*` asks for names that would be hidden otherwise.
    asked = PurePath(rest).name.startswith(hidden)
    matched = False

    for path in _matches(folder, rest, left_out):
        matched = matched or os.path.isfile(path) or path.is_symlink()
        below = PurePath(os.path.relpath(path, folder or "."))
        if not os.path.isfile(path):
            left_out.add(BROKEN_LINK, path, count=int(path.is_symlink()))
        elif is_foreign(below):
            left_out.add(FOREIGN, path)
        elif path.name.startswith(hidden) and not asked:
            left_out.add(HIDDEN, path)
        else:
            files.add(path)
    return matched


def _matches(folder: str, pattern: str, left_out: LeftOut) -> Iterator[Path]:
    """Expands a glob below a folder; the same path may come twice.

    `**` is our own walk: Python's follows a loop of links for forty rounds.
    """
    parts = PurePath(pattern).parts
    # The folder exists, so that a bracket in it is a bracket.
    escaped = glob.escape(folder)
    if "**" not in parts:
        yield from map(Path, glob.glob(os.path.join(escaped, pattern)))
        return

    index = parts.index("**")
    heads = [folder]
    if index:
        heads = glob.glob(os.path.join(escaped, *parts[:index]))
    tail = os.path.join(*parts[index + 1 :] or ("*",))

    for head in heads:
        if not os.path.isdir(head or "."):
            continue
        walk = Walk(lambda path: False, deep=True, hidden=(".",))
        walk.through(Path(head))
        left_out.update(walk.left_out)
        for inner in walk.folders:
            yield from _matches(str(inner), tail, left_out)


def _without_pattern(pattern: str) -> tuple[str, str]:
    """Splits a pattern after the folders that exist as they are written."""
    folder = "/" if pattern.startswith("/") else ""
    parts = PurePath(pattern).parts[1 if folder else 0 :]

    for index, part in enumerate(parts):
        deeper = os.path.join(folder, part)
        if not os.path.isdir(deeper):
            return folder, os.path.join(*parts[index:])
        folder = deeper
    return folder, ""
