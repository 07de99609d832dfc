"""Ensures that one process writes a run's folder, for the run's whole life.

A restarted job may overlap with its previous attempt. The lock must end with the run's main process
even if loader workers, which are its forked children, live on for a while; and it must hold across
the nodes of a cluster.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import IO

from align_train.errors import UserError

_POLL = 0.2  # seconds between two attempts
_SILENT = 2.0  # seconds that a start waits without a word


class Lock:
    """A record lock (`fcntl`), not the `flock` of `files.locked`.

    It ends with the process, however that ends, and forked children do not hold it. NFS and Lustre
    know it across machines.
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
            # To append: opened to write, it would lose the holder's name before the lock is ours.
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
                holder = self._holder()
                self._file.close()
                self._file = None
                raise UserError(
                    f"{self.path.parent}: {holder} is writing this run; wait for its end or end "
                    f"it, or choose another name"
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
