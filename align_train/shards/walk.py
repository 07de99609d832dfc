"""A walk through a folder, which counts all that it passes over.

Links are followed, to files and to folders. No folder is walked twice, so that loops end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from align_train.shards.foreign import FOREIGN, is_foreign_name
from align_train.shards.left_out import LeftOut

# Reasons, as they follow a number.
HIDDEN = "hidden"
BROKEN_LINK = "broken links"
SEEN = "linked folders that were walked before"
UNREADABLE = "that cannot be read"
NO_FILE = "neither files nor folders"

Wanted = Callable[[Path], bool]
"""Chooses files by their paths, or by what they hold."""


class Walk:
    """One walk, and what it has met so far.

    Attributes:
        files: The wanted files.
        others: Visible files that are not wanted.
        folders: The folders that were walked.
        left_out: Counts those that would have been found, by reason.
    """

    def __init__(self, wanted: Wanted, *, deep: bool, hidden: tuple[str, ...]) -> None:
        """Has met nothing yet.

        Args:
            wanted: Chooses the files.
            deep: Whether to look in the folders of a folder.
            hidden: The beginnings of names that are hidden.
        """
        self.wanted = wanted
        self.deep = deep
        self.hidden = hidden
        self.files: list[Path] = []
        self.others: list[Path] = []
        self.folders: list[Path] = []
        self.left_out = LeftOut()

    def through(self, folder: Path) -> None:
        """Walks a folder that exists."""
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
        if is_foreign_name(path.name):
            self.left_out.add(FOREIGN, path)
            return True
        if path.name.startswith(self.hidden):
            self.left_out.add(HIDDEN, path)
            return True
        return False

    def _take(self, path: Path) -> None:
        fault = ""
        if is_foreign_name(path.name):
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
