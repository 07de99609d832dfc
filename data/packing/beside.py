"""Hidden folders beside the result: locked while their command lives, removed if it was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path


def remove_left(to: Path, ending: str) -> None:
    """Removes what killed commands with the same result have left beside it.

    Args:
        to: The result's folder.
        ending: A regular expression: what follows `.NAME.` in the names.
    """
    if not to.parent.is_dir():
        return
    pattern = re.compile(rf"\.{re.escape(to.name)}\.{ending}")
    for left in list(to.parent.iterdir()):
        if not pattern.fullmatch(left.name):
            continue
        with locked_folder(left) as is_ours:
            if is_ours:
                shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[bool]:
    """Locks a folder, at most for the life of this process.

    Args:
        folder: A folder, and no link to one.

    Yields:
        Whether it could be locked.
    """
    file = None
    try:
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = True
    except OSError:  # some network file systems lock no folders: what lies there stays
        is_ours = False
    try:
        yield is_ours
    finally:
        if file is not None:
            os.close(file)
