"""Hidden folders beside the result: locked while their command lives, removed if it was killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from align_train.errors import UserError
from align_train.files import whole

# A rename fails with one of these if the new name is taken.
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


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
