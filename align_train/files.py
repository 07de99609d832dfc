"""Files that are written whole or not at all, locks between processes, and the user's cache folder.

A reader never sees half a file: the content goes to a hidden name beside it and is renamed once it
is complete. A rename within one folder is atomic on local disks, NFS and Lustre.

There are two locks. `locked` is for a block of code: threads and processes enter one after another.
`Lock` is for a run's whole life. It must end with the run's main process even if loader workers,
which are its forked children, live on for a while; and it must hold across the nodes of a cluster.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from align_train.errors import UserError

# Seconds between two attempts to take a lock.
_POLL = 0.2
_POLL_BLOCK = 0.05
_SILENT = 2.0  # seconds that a start waits for a lock without a word


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
    # A thread's number is unique on its machine, and that of the main thread is its process's.
    aside = path.with_name(f".{path.name}.{threading.get_native_id()}")
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
        fix: The advice at the end of the error.

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


@contextmanager
def locked(path: Path, deadline: float, *, refusal: str) -> Iterator[None]:
    """Lets one thread of one process at a time into the block.

    The lock (`flock`) ends with the process, however that ends. Its file stays.

    Args:
        path: The lock's file, in a folder that exists.
        deadline: When to give up waiting, by `time.monotonic`; a time in the past: at once.
        refusal: The error's text if another one keeps the lock.

    Yields:
        Nothing.

    Raises:
        UserError: Another one keeps the lock, or the file cannot be locked.
    """
    from filelock import FileLock, Timeout  # asyncio comes with it, 0.06 s

    lock = FileLock(path)
    patience = max(deadline - time.monotonic(), 0)
    try:
        lock.acquire(timeout=patience, poll_interval=_POLL_BLOCK)
    except Timeout:
        raise UserError(refusal) from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be locked ({error.strerror}); choose another folder"
        ) from None

    try:
        yield
    finally:
        lock.release()


class Lock:
    """Ensures that one process writes a run's folder.

    A restarted job may overlap with its previous attempt. This is a record lock (`fcntl`), not the
    `flock` of `locked`: it ends with the process, however that ends, and forked children do not
    hold it. NFS and Lustre know it across machines.
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

        begun = time.monotonic()
        said = False
        while not self._locked():
            waited = time.monotonic() - begun
            if waited > self.patience:
                raise UserError(
                    f"{self.path.parent}: {self._holder()} is writing this run; wait for its end "
                    f"or end it, or choose another name"
                )
            if waited > _SILENT and not said:
                said = True
                print(
                    f"{self.path.parent}: {self._holder()} is writing this run; waiting for its "
                    f"end, {self.patience:.0f} s at most",
                    flush=True,
                )
            time.sleep(_POLL)

        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()
        return True

    def _holder(self) -> str:
        assert self._file is not None
        self._file.seek(0)
        return self._file.read().strip() or "another process"

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
