from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import IO

from align_train.errors import UserError


class Lock:
    """Keeps a run's folder to one process: a job that is started again may meet what is left of its former start.

    A record lock (`fcntl`): it ends with the process, however that ends, and is not handed on to those forked from it; NFS and
    Lustre know it across machines. patience: seconds to wait for another's end.
    """

    def __init__(self, path: Path, *, patience: float) -> None:
        self.path, self.patience = path, patience
        self._file: IO[str] | None = None

    def take(self) -> bool:
        """Whether it was taken only now; UserError where another process holds it, and goes on to."""
        if self._file is not None:
            return False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); free some space, or choose another name or output_dir"
            ) from None
        deadline = time.monotonic() + self.patience
        while not self._locked():
            if time.monotonic() > deadline:
                self._file.seek(0)
                holder = self._file.read().strip() or "another process"
                raise UserError(
                    f"{self.path.parent}: {holder} is writing this run; wait for its end or end it, or choose another name"
                )
            time.sleep(0.2)
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
            print(
                f"{self.path}: this file system knows no locks ({error.strerror}); never start a run twice at a time here"
            )
        return True


def write_whole(
    path: Path,
    content: str | bytes | memoryview,
    *,
    mend: str = "free some space or set output_dir to another place",
) -> None:
    """Writes a file whole or not at all. mend: what the user is told to do where it cannot be written."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(aside, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); {mend}") from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
