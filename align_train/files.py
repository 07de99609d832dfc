"""Files that are written whole or not at all, locks between processes, and the user's cache folder.

A reader never sees half a file: the content goes to a hidden name beside it and is renamed once it
is complete. A rename within one folder is atomic on local disks, NFS and Lustre.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from align_train.errors import UserError

_POLL = 0.2  # seconds between two attempts to take a lock


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Writes a file or a folder whole or not at all.

    Args:
        path: The final place. Its folder is made if it is missing.

    Yields:
        A hidden place beside it, for the block to fill: as a file, or as a folder that the block
        makes. It takes the final name when the block ends, and is removed if the block raises.

    Raises:
        OSError: The place cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(aside)

    try:
        yield aside
        os.replace(aside, path)
    finally:
        with contextlib.suppress(OSError):
            _remove(aside)


def write_whole(
    path: Path,
    content: str | bytes | memoryview,
    *,
    fix: str = "free some space or set output_dir to another place",
) -> None:
    """Writes a file whole or not at all.

    Args:
        path: The file. Its folder is made if it is missing.
        content: Text is written as UTF-8.
        fix: What the error tells the user to do.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        with whole(path) as aside:
            aside.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); {fix}") from None


def cache_folder(name: str) -> Path:
    """The folder `align_train/NAME` in the user's cache folder (`XDG_CACHE_HOME`, or `~/.cache`).

    The folder is not made here.
    """
    home = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    return Path(home) / "align_train" / name


class Lock:
    """Ensures that one process writes a run's folder.

    A restarted job may overlap with its previous attempt. This is a record lock (`fcntl`): it ends
    with the process, however that ends, and forked children do not hold it. NFS and Lustre know it
    across machines.
    """

    def __init__(self, path: Path, *, patience: float) -> None:
        """Takes nothing yet.

        Args:
            path: The lock's file.
            patience: Seconds to wait for another process to end.
        """
        self.path = path
        self.patience = patience
        self._file: IO[str] | None = None

    def take(self) -> bool:
        """Takes the lock; waits up to `patience` seconds for another process.

        Returns:
            True if this call took it, False if this process held it already.

        Raises:
            UserError: The file cannot be written, or another process keeps the lock.
        """
        if self._file is not None:
            return False

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); free some space, or choose "
                f"another name or output_dir"
            ) from None

        deadline = time.monotonic() + self.patience
        while not self._locked():
            if time.monotonic() > deadline:
                self._file.seek(0)
                holder = self._file.read().strip() or "another process"
                raise UserError(
                    f"{self.path.parent}: {holder} is writing this run; wait for its end or end "
                    f"it, or choose another name"
                )
            time.sleep(_POLL)

        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()
        return True

    def _locked(self) -> bool:
        assert self._file is not None
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            # Some network file systems have no locks. The run goes on without protection.
            print(
                f"{self.path}: this file system has no locks ({error.strerror}); never start a "
                f"run twice at the same time here"
            )
        return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
