"""The shard cache's folder: which files in it are ours, how much they take, and who makes room.

Names in the folder, of a shard at URL/NAME whose URL has the hash HASH:
`HASH-NAME` a whole copy · `.HASH-NAME.index.npz` its index · `.HASH-NAME.lock` one fetches it ·
`.HASH-NAME.BYTES.PROCESS.NUMBER.partial` a fetch in progress, which has BYTES reserved ·
`.room.lock` one makes room · `.HASH.hub` what the hub has answered. All other files are left alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from align_train.errors import UserError
from align_train.files import locked

_OURS = re.compile(r"[0-9a-f]{16}-")  # how the names of copies begin
_PARTIAL = ".partial"

_count = itertools.count()


class Copy(NamedTuple):
    """A whole copy of a shard. Copies sort by their last use."""

    used: int  # nanoseconds since 1970
    bytes: int
    path: Path


@dataclass(frozen=True)
class CacheSpace:
    """The folder of a shard cache, bounded.

    Attributes:
        path: The folder.
        limit_gb: Space for copies and reservations, in 10^9 bytes.
        patience: Seconds to wait while other processes make room.
    """

    path: Path
    limit_gb: float
    patience: float

    def make(self) -> None:
        """Makes the folder.

        Raises:
            UserError: It cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be made ({error.strerror}); set data.staging.folder"
            ) from None
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise self.refusal("cannot be written")

    def refusal(self, what: str) -> UserError:
        """The error for a folder in which another user's rights are in the way.

        Args:
            what: What cannot be done.
        """
        return UserError(
            f"{self.path}: {what}; users who share a cache need a folder of their group "
            f"(chmod 2775), not a sticky one, and a umask of 002 or 022; or set data.staging.folder"
        )

    def copy_of(self, url: str) -> Path:
        """The path that the copy of a shard has or will have.

        The name begins with a hash of the URL: shards of equal names do not collide.
        """
        digest = hashlib.sha256(url.encode()).hexdigest()[:16]
        name = url.rpartition("/")[2]
        return self.path / f"{digest}-{name}"

    def temporary(self, url: str) -> Path:
        """The path of a copy that this call alone uses."""
        return self.copy_of(f"{url}.{os.getpid()}.{next(_count)}")

    def reserve(self, copy: Path, size: int) -> Path:
        """Makes room for a fetch, and reserves it.

        Args:
            copy: The path that the copy will have.
            size: Its bytes; 0 if they are not known.

        Returns:
            An empty file, for the fetch to fill. Its name says how many bytes are to come.

        Raises:
            UserError: Everything that is not being fetched right now was evicted, and the room does
                not suffice; or other processes hold the lock for too long.
        """
        refusal = (
            f"{self.path}: other processes have held .room.lock for {self.patience:g} s; "
            f"is one of them stuck?"
        )
        deadline = time.monotonic() + self.patience

        # One at a time: two processes that count at once would use the same room twice.
        with locked(self.path / ".room.lock", deadline, refusal=refusal):
            limit = int(self.limit_gb * 1e9)
            taken, copies = self._take_stock()

            while taken + size > limit and copies:
                oldest = copies.pop()
                evict(oldest.path)
                taken -= oldest.bytes

            if taken + size > limit:
                raise UserError(
                    f"data.staging.limit_gb={self.limit_gb:g}: {copy.name} has "
                    f"{size / 1e9:.3g} GB, and {taken / 1e9:.3g} GB are being fetched beside it; "
                    f"raise the limit or lower data.staging.fetches"
                )

            partial = f".{copy.name}.{size}.{os.getpid()}.{next(_count)}{_PARTIAL}"
            reserved = self.path / partial
            reserved.touch()
            return reserved

    def sweep(self) -> None:
        """Removes the unfinished fetches of killed processes."""
        if self.path.is_dir():
            self._take_stock()

    def available(self) -> int:
        """Bytes that the disk could give to shards: free ones, and those that shards take now."""
        self.make()
        taken, _ = self._take_stock()
        return shutil.disk_usage(self.path).free + taken

    def _take_stock(self) -> tuple[int, list[Copy]]:
        """Counts our files in the folder. Removes the unfinished fetches of killed processes.

        Returns:
            Bytes of copies and reservations, and the copies, the least recently used last.
        """
        taken = 0
        copies: list[Copy] = []

        for entry in os.scandir(self.path):
            try:
                if entry.name.endswith(_PARTIAL) and _OURS.match(entry.name[1:]):
                    # Counted from the end: the shard's own name has dots too.
                    size, process = map(int, entry.name.split(".")[-4:-2])
                    if _is_alive(process):
                        # A fetch has all of its bytes reserved, however few have arrived.
                        taken += max(size, entry.stat().st_size)
                    else:
                        os.unlink(entry.path)
                elif _OURS.match(entry.name):
                    stat = entry.stat()
                    taken += stat.st_size
                    copies.append(Copy(stat.st_atime_ns, stat.st_size, Path(entry.path)))
            except (OSError, ValueError):
                continue  # it has gone meanwhile, or is not ours

        return taken, sorted(copies, reverse=True)


def touch(copy: Path, size: int | None = None) -> bool:
    """Marks a copy as used now.

    Only the time of access changes. The index is checked against the time of modification.

    Args:
        copy: The copy.
        size: The bytes that it should have; None: any.

    Returns:
        False if there is no copy that can be read, or one of another size.
    """
    try:
        stat = copy.stat()
        if (size and stat.st_size != size) or not os.access(copy, os.R_OK):
            return False
        # Set by hand: most systems hardly keep the time of access (relatime, noatime). Of another
        # user's copy they must: nobody else may set it.
        with contextlib.suppress(PermissionError):
            os.utime(copy, ns=(time.time_ns(), stat.st_mtime_ns))
    except OSError:
        return False
    return True


def evict(copy: Path) -> None:
    """Removes a copy with its index. A reader that has it open reads it to its end."""
    copy.unlink(missing_ok=True)
    lock_path(copy).unlink(missing_ok=True)
    copy.with_name(f".{copy.name}.index.npz").unlink(missing_ok=True)


def lock_path(copy: Path) -> Path:
    """The lock of the process that fetches a copy."""
    return copy.with_name(f".{copy.name}.lock")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True
