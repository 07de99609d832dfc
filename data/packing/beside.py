"""The folder of a result, and hidden ones beside it.

A hidden folder is locked while its command lives, and removed if that was killed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISLNK

from align_train.errors import UserError, shown
from align_train.files import check_writable, whole
from align_train.shards.remote import is_url

# A rename fails with one of these if the new name is taken.
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


_HIDDEN = ".source.12345678"  # what a hidden name beside the folder has more, at most

_FIX = "give to=…, a new folder in one that you can write"


def check_place(given: str, to: Path) -> None:
    """Checks the place of a new folder.

    Args:
        given: The setting `to`.
        to: The folder.

    Raises:
        UserError: It is at a URL, exists, or cannot be written.
    """
    if is_url(given):
        raise UserError(f"to={shown(given)}: expected a folder here; upload it when it is done")
    # What is being written lies beside it, under a hidden name that is longer.
    for name in (to.name, f".{to.name}{_HIDDEN}"):
        try:
            # Not `stat`, for which a link that leads nowhere is absent.
            found = (to.parent / name).lstat()
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"to={shown(given)}: cannot be written ({why}); {_FIX}") from None
        what = "is a link" if S_ISLNK(found.st_mode) else "exists"
        raise UserError(f"to={given} {what}; remove it or choose another folder")
    check_writable(to, _FIX)


@contextlib.contextmanager
def whole_folder(to: Path) -> Iterator[Path]:
    """Writes a folder whole or not at all; removes what killed commands have left of it.

    Args:
        to: The folder.

    Yields:
        A hidden folder that takes its name at the end.

    Raises:
        UserError: It cannot be written. Errors of the block name the final folder.
    """
    aside = to
    try:
        remove_left(to, r"\d+")
        with whole(to) as aside:
            aside.mkdir()
            with locked_folder(aside):
                yield aside
    except UserError as error:
        raise UserError(str(error).replace(str(aside), str(to))) from None
    except OSError as error:
        if error.errno in _TAKEN and os.path.lexists(to):
            raise UserError(
                f"{to}: another command has made it meanwhile; remove it or choose another folder"
            ) from None
        raise UserError(
            f"{to}: cannot be written ({error.strerror or error}); free some space or choose "
            f"another folder"
        ) from None


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
            # We got the lock, so the command that made the folder is gone.
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
            # Closing the folder gives its lock back.
            os.close(file)
