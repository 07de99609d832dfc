"""Finds files: in a folder, by a glob or a brace range, or by name. All rooms find theirs here.

- Links are followed, to files and to folders. No folder is walked twice, so that loops end.
- Hidden files and folders, and those that operating systems leave behind (`._x.jpg`, `__MACOSX/`),
  are no data. A file that is named by itself is taken whatever its name is.
- A path that exists is no pattern, even if it has a bracket or a brace in it.
- `**` stands for any number of folders.

Whatever would have been found but for one of these is counted, for the caller to say.
"""

from __future__ import annotations

import errno
import glob
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from braceexpand import braceexpand

from align_train.errors import UserError, shown
from align_train.shards.left_out import LeftOut

# Reasons, as they follow a number.
MISSING = "missing"
HIDDEN = "hidden"
FOREIGN = "files of another system (._NAME, __MACOSX)"
BROKEN_LINK = "broken links"
SEEN = "linked folders that were walked before"
UNREADABLE = "that cannot be read"
NO_FILE = "neither files nor folders"

_FOREIGN_NAMES = ("__macosx", ".ds_store", "thumbs.db", "desktop.ini")

_MOST_NAMES = 10_000_000  # of one pattern: they are held in memory

_COUNTED_TO = 10**30
_LONGEST_RANGE = 60  # characters

# Ranges within braces, as braceexpand knows them: the two ends, and the step.
_NUMBERS = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.-?(\d+))?")

Wanted = Callable[[Path], bool]


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


def is_foreign(path: PurePath) -> bool:
    """Whether an operating system left this behind, such as macOS's `._NAME`, in any folder."""
    return any(_is_foreign_name(part) for part in path.parts)


def _is_foreign_name(name: str) -> bool:
    return name.startswith("._") or name.lower() in _FOREIGN_NAMES


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
        return _Walk(wanted, deep, hidden).of(path)
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
    walk = _Walk(wanted, deep=True, hidden=(".",))
    folders = sorted(path for path, _ in walk.folders_in(folder))
    return Found(tuple(folders), tuple(sorted(walk.files + walk.others)), walk.left_out)


def _of_pattern(pattern: str, hidden: tuple[str, ...]) -> Found:
    """Expands braces first, then globs. A name that exists is no glob."""
    left_out = LeftOut()
    files: set[Path] = set()
    folder, rest = _without_pattern(pattern)

    for name in braces(rest):
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
        walk = _Walk(lambda path: False, deep=True, hidden=(".",))
        walk.of(Path(head))
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


def braces(pattern: str) -> list[str]:
    """Expands brace ranges.

    Raises:
        UserError: A brace is not closed, or the names are too many.
    """
    count = _count_of_names(pattern)
    if count > _MOST_NAMES:
        raise UserError(
            f"{shown(pattern)}: the braces give {count:,} names, more than {_MOST_NAMES:,}"
        )
    try:
        return list(braceexpand(pattern))
    except ValueError:
        raise UserError(
            f"{shown(pattern)}: a brace is not closed; a range is written {{00000..00099}}.tar"
        ) from None


def _count_of_names(pattern: str) -> int:
    """How many names braces give, or somewhat more; braceexpand holds all of them at once."""
    # Of each open brace: where its content begins, the names of its alternatives before this one,
    # and those of this one so far.
    braces_open = [(0, 0, 1)]
    # A rough count suffices: braceexpand decides whether the pattern is valid.
    position = 0
    while position < len(pattern):
        start, before, names = braces_open[-1]
        letter = pattern[position]
        position += 1
        if letter == "\\":
            position += 1
        elif letter == "{":
            braces_open.append((position, 0, 1))
        elif letter == "," and len(braces_open) > 1:
            braces_open[-1] = (start, before + names, 1)
        elif letter == "}" and len(braces_open) > 1:
            braces_open.pop()
            inner = _length_of_range(pattern[start : position - 1]) or before + names
            start, before, names = braces_open[-1]
            braces_open[-1] = (start, before, min(names * inner, _COUNTED_TO))
    return braces_open[0][2]


def _length_of_range(text: str) -> int:
    """How many names a range like `00000..00099` gives; 0 if it is none."""
    if found := _NUMBERS.fullmatch(text):
        # Nobody means so long a number, and Python refuses to read one of thousands of digits.
        if len(text) > _LONGEST_RANGE:
            return _COUNTED_TO
        first, last = int(found[1]), int(found[2])
    elif found := _LETTERS.fullmatch(text):
        first, last = ord(found[1]), ord(found[2])
    else:
        return 0
    step = int(found[3] or 1) or 1
    return abs(last - first) // step + 1


class _Walk:
    """One walk through a folder."""

    def __init__(self, wanted: Wanted, deep: bool, hidden: tuple[str, ...]) -> None:
        self.wanted = wanted
        self.deep = deep
        self.hidden = hidden
        self.files: list[Path] = []
        self.others: list[Path] = []
        self.folders: list[Path] = []
        self.left_out = LeftOut()

    def of(self, folder: Path) -> Found:
        # Links wait until all that really lies here is walked: a link to it adds nothing then,
        # whatever its name is.
        waiting = [folder]
        links: list[Path] = []
        seen: set[tuple[int, int]] = set()

        while waiting or links:
            here = waiting.pop() if waiting else links.pop(0)
            stat = here.stat()
            if (stat.st_dev, stat.st_ino) in seen:
                self.left_out.add(SEEN, here)
                continue
            seen.add((stat.st_dev, stat.st_ino))
            self.folders.append(here)

            for inner, is_link in self.folders_in(here):
                (links if is_link else waiting).append(inner)
            links.sort()
        return Found(tuple(sorted(self.files)), tuple(sorted(self.others)), self.left_out)

    def folders_in(self, folder: Path) -> Iterator[tuple[Path, bool]]:
        """Takes a folder's files, and yields its folders: whether they are links, too."""
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            # Such as lost+found, which only root may read.
            self.left_out.add(UNREADABLE, folder)
            return

        for entry in entries:
            path = folder / entry.name
            if not entry.is_dir():
                self._take(path)
            elif self.deep and not self._is_hidden(path):
                yield path, entry.is_symlink()

    def _is_hidden(self, path: Path) -> bool:
        """Whether a folder is hidden; it counts as one, since nobody looks into it."""
        if _is_foreign_name(path.name):
            self.left_out.add(FOREIGN, path)
            return True
        if path.name.startswith(self.hidden):
            self.left_out.add(HIDDEN, path)
            return True
        return False

    def _take(self, path: Path) -> None:
        fault = ""
        if _is_foreign_name(path.name):
            fault = FOREIGN
        elif path.name.startswith(self.hidden):
            fault = HIDDEN

        # Whoever opens a pipe waits for its writer, so that nobody is asked about these.
        if not os.path.isfile(path):
            reason = BROKEN_LINK if path.is_symlink() else NO_FILE
            self.left_out.add(reason, path, count=int(not fault))
            return

        # Of the hidden ones only those are worth a word that would have been found.
        try:
            is_wanted = self.wanted(path)
        except OSError:
            is_wanted = not fault
            fault = fault or UNREADABLE

        if fault:
            self.left_out.add(fault, path, count=int(is_wanted))
        elif is_wanted:
            self.files.append(path)
        else:
            self.others.append(path)
