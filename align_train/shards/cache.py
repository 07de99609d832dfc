"""Staging: shards fetched whole from wherever fsspec reaches into a bounded folder that the node's processes share.

A fetch is written aside, its size checked, and renamed: what stands in the folder is whole. Two processes that want the same
shard fetch it once (a file lock). Before a fetch the least recently used shards make room. What goes wrong on the way (an
error, a cut body, a stall) is tried again with growing pauses until `patience` is over; then one clear error, never a hang:
each attempt runs in a thread of its own, which is left behind when nothing has arrived for `stall` seconds.

Readers keep a shard open, so one that is evicted under them is read to its end; one that is wanted again is fetched again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar

from align_train.errors import UserError
from align_train.shards.remote import (
    Stalled,
    Vanished,
    filesystem,
    is_refusal,
    is_url,
    size_there,
    spelt,
)

_POLL = 0.05  # seconds


_LONGEST_PAUSE = 30.0


_TIMES_MISSING = 3  # a store that says "no such file" so often in a row means it


_OURS = re.compile(
    r"[0-9a-f]{16}-"
)  # what the names of fetched files begin with; others in the folder are left alone


_TOLD_AFTER = 4.0  # seconds of pause between attempts, from which on the user is told


_number = itertools.count()


Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """The node's folder of fetched shards.

    folder: None: `align_train/shards` in the user's cache folder (XDG_CACHE_HOME). limit_gb: what the shards may take there,
    in 10^9 bytes. paths: fetch shards at plain paths too (a network file system), not only URLs. patience: seconds until a
    source that does not deliver stops the run. stall: seconds without a byte after which an attempt is given up.
    fetches: how many at a time, ahead of need, per rank. storage_options: goes to fsspec.
    """

    folder: str | None = None
    limit_gb: float = 100.0
    paths: bool = False
    patience: float = 600.0
    stall: float = 30.0
    fetches: int = 8
    storage_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("limit_gb", "patience", "stall", "fetches"):
            if not getattr(self, name) > 0:
                raise UserError(
                    f"data.staging.{name}={getattr(self, name)}: expected a number above 0"
                )

    @property
    def path(self) -> Path:
        if self.folder is not None:
            return Path(self.folder).expanduser().absolute()
        return (
            Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
            / "align_train"
            / "shards"
        )

    def wants(self, url: str) -> bool:
        """Whether a shard is staged, or read where it lies."""
        return is_url(url) or self.paths

    def local(self, url: str, size: int | None = None) -> Path:
        """The path of a whole local copy, fetched if it is not there; the path itself where it is not staged.

        size: what the manifest says; a copy of another size is out of date. Vanished: the source says that there is no such
        file.
        """
        if not self.wants(url):
            return Path(url)
        place = self.place(url)
        if _touch(place, size):
            return place
        deadline = time.monotonic() + self.patience
        self._make_folder()
        waited = f"{url}: cannot be fetched; another process has tried for {self.patience:g} s (data.staging.patience)"
        with _locked(place.with_name(f".{place.name}.lock"), deadline, waited):
            if not _touch(place, size):  # another process may have brought it meanwhile
                self._fetch(url, size, place, deadline)
        return place

    def size(self, url: str) -> int | None:
        """What the source says that a staged file has; None where it is read where it lies."""
        if not self.wants(url):
            return None
        return self._with_patience(url, size_there)

    def forget(self, url: str) -> None:
        """Drops a copy that turned out to be out of date."""
        if self.wants(url):
            _evict(self.place(url))

    def place(self, url: str) -> Path:
        """Where the copy of a shard lies or will lie: known by its source, so that equal names do not collide."""
        return (
            self.path / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{url.rpartition('/')[2]}"
        )

    def renew(self, urls: list[str]) -> None:
        """Marks shards as in use: the last to be evicted."""
        for url in urls:
            _touch(self.place(url))

    def read(self, url: str) -> bytes:
        """A small file, always anew. Vanished: there is none."""
        if not is_url(url):
            try:
                return Path(url).read_bytes()
            except OSError as error:
                raise UserError(
                    f"{url}: cannot be read ({error.strerror}); check the path"
                ) from None

        self._make_folder()
        place = self.place(f"{url}.{os.getpid()}.{next(_number)}")  # of this call alone
        try:
            self._fetch(url, None, place, time.monotonic() + self.patience)
            return place.read_bytes()
        finally:
            place.unlink(missing_ok=True)

    def glob(self, pattern: str) -> list[str]:
        """The URLs that match."""
        return self._with_patience(
            pattern, lambda fs, path: [fs.unstrip_protocol(found) for found in fs.glob(path)]
        )

    def _with_patience(self, url: str, function: Callable[[Any, str], Result]) -> Result:
        """For what has no progress to be seen: a listing may take half of the patience."""
        deadline = time.monotonic() + self.patience
        limit = max(self.stall, self.patience / 2)
        return self._insist(
            url,
            deadline,
            lambda fs, path: self._attempt(
                lambda: function(fs, path), lambda: 0, deadline, stall=limit
            ),
        )

    def _fetch(self, url: str, size: int | None, place: Path, deadline: float) -> None:
        def once(fs: Any, path: str) -> None:
            self._make_folder()
            expected = size or self._attempt(lambda: size_there(fs, path), lambda: 0, deadline) or 0
            aside = self._reserve(place, expected)
            try:
                # An attempt that is left behind may still write: then it removes what it wrote.
                self._attempt(
                    lambda: fs.get_file(path, str(aside)),
                    lambda: aside.stat().st_size,
                    deadline,
                    left_behind=lambda: aside.unlink(missing_ok=True),
                )
                arrived = aside.stat().st_size
                if expected and arrived != expected:
                    self._refuse_another_size(url, fs, path, arrived, expected, deadline)
                os.replace(aside, place)
            finally:
                aside.unlink(missing_ok=True)

        self._insist(url, deadline, once)

    def _refuse_another_size(
        self, url: str, fs: Any, path: str, arrived: int, expected: int, deadline: float
    ) -> None:
        if self._attempt(lambda: size_there(fs, path), lambda: 0, deadline) == arrived:
            raise UserError(
                f"{url}: holds {arrived} bytes, the manifest says {expected}; make the manifest anew"
            )
        raise OSError(f"{arrived} of {expected} bytes arrived")

    def _insist(self, url: str, deadline: float, once: Callable[[Any, str], Result]) -> Result:
        """Tries until it succeeds, the file turns out to be missing, or the deadline is near."""
        pause, missing, refused, tries = 0.25, 0, 0, 0
        reason = "no answer"
        while True:
            try:
                tries += 1
                return once(*filesystem(url, self.storage_options, anew=tries > 1))
            except UserError:
                raise
            except FileNotFoundError as error:
                if self._is_definite(error):
                    missing, reason = missing + 1, "no such file"
                else:
                    missing, reason = 0, spelt(error.__cause__ or error)
                if missing >= _TIMES_MISSING:
                    raise Vanished(
                        f"{url}: no such file there; check data.shards, or rebuild the manifest"
                    ) from None
            except Stalled as error:
                missing, reason = 0, str(error)
            except Exception as error:  # each store has errors of its own kind
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise UserError(
                        f"{self.path}: no space left; free some, or set data.staging.folder"
                    ) from None
                missing, reason = 0, spelt(error)
                refused += is_refusal(error)
                if refused >= _TIMES_MISSING:
                    raise UserError(
                        f"{url}: the source refuses ({reason}); check the credentials (environment, data.storage_options)"
                    ) from None
            if time.monotonic() + pause > deadline:
                raise UserError(
                    f"{url}: cannot be fetched; given up after {tries} attempts in {self.patience:g} s "
                    f"(data.staging.patience), the last: {reason}"
                )
            time.sleep(pause * random.uniform(0.5, 1.0))  # jitter: not all nodes at once
            pause = min(2 * pause, _LONGEST_PAUSE)
            if pause == _TOLD_AFTER:
                left = deadline - time.monotonic()
                print(
                    f"align_train: {url}: {reason}; trying again for {left:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )

    def _is_definite(self, error: FileNotFoundError) -> bool:
        """Whether the store really said that there is no such file: fsspec's http says so of any failed request, with its
        cause; and a file that is missing in our own folder is another matter."""
        cause = error.__cause__
        unreachable = isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp")
        ours = str(error.filename or "").startswith(str(self.path))
        return not ours and (not unreachable or getattr(cause, "status", None) == 404)

    def _attempt(
        self,
        function: Callable[[], Result],
        progress: Callable[[], int],
        deadline: float,
        *,
        stall: float | None = None,
        left_behind: Callable[[], None] = lambda: None,
    ) -> Result:
        """Runs a function that may hang; gives it up when `progress` has stood still for `stall` seconds, and lets it clean up
        with `left_behind` when it ends after all."""
        stall = stall or self.stall
        outcome: list[Any] = []
        given_up = Event()

        def work() -> None:
            try:
                outcome.append((True, function()))
            except BaseException as error:  # whatever it is, it belongs to the thread that waits
                outcome.append((False, error))
            if given_up.is_set():
                left_behind()

        thread = Thread(target=work, daemon=True)
        thread.start()
        seen, moved = -1, time.monotonic()
        while True:
            thread.join(_POLL)
            if outcome:
                break
            now = time.monotonic()
            with contextlib.suppress(OSError):
                if (arrived := progress()) != seen:
                    seen, moved = arrived, now
            if now - moved > stall or now > deadline:
                given_up.set()
                raise Stalled(f"nothing arrived for {stall:g} s")
        done, value = outcome[0]
        if not done:
            raise value
        result: Result = value
        return result

    def _make_folder(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be made ({error.strerror}); set data.staging.folder"
            ) from None

    def _reserve(self, place: Path, size: int) -> Path:
        """Makes room for a fetch and reserves it: an empty file whose name says how much is to come."""
        waited = f"{self.path}: other processes have held .room.lock for {self.patience:g} s; is one of them stuck?"
        with _locked(self.path / ".room.lock", time.monotonic() + self.patience, waited):
            limit = int(self.limit_gb * 1e9)
            taken, evictable = self._take_stock()
            while taken + size > limit and evictable:
                _, length, oldest = evictable.pop()
                _evict(oldest)
                taken -= length
            if taken + size > limit:
                raise UserError(
                    f"data.staging.limit_gb={self.limit_gb:g}: {place.name} has {size / 1e9:.3g} GB, and "
                    f"{taken / 1e9:.3g} GB are being fetched beside it; raise the limit or lower data.staging.fetches"
                )
            aside = self.path / f".{place.name}.{size}.{os.getpid()}.{next(_number)}.partial"
            aside.touch()
            return aside

    def _take_stock(self) -> tuple[int, list[tuple[int, int, Path]]]:
        """Bytes taken, reserved ones included, and (last use, bytes, path) of what may go, the oldest last. Removes what
        killed processes left behind."""
        taken, evictable = 0, []
        for entry in os.scandir(self.path):
            try:
                if entry.name.endswith(".partial") and _OURS.match(entry.name[1:]):
                    size, process = (int(part) for part in entry.name.split(".")[-4:-2])
                    if _alive(process):
                        taken += max(size, entry.stat().st_size)
                    else:
                        os.unlink(entry.path)
                elif _OURS.match(entry.name):
                    stat = entry.stat()
                    taken += stat.st_size
                    evictable.append((stat.st_atime_ns, stat.st_size, Path(entry.path)))
            except (OSError, ValueError):
                continue  # gone meanwhile, or not ours
        return taken, sorted(evictable, reverse=True)

    def sweep(self) -> None:
        """Removes what killed processes left behind."""
        if self.path.is_dir():
            self._take_stock()

    def free_space(self) -> int:
        """Bytes that the folder's disk could give to shards: free ones and those that hold shards already."""
        self._make_folder()
        return shutil.disk_usage(self.path).free + self._take_stock()[0]


@contextlib.contextmanager
def _locked(path: Path, deadline: float, too_long: str) -> Iterator[None]:
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(too_long) from None
                time.sleep(_POLL)
        yield


def _touch(place: Path, size: int | None = None) -> bool:
    """Marks a file as used now; False where there is none (of that size). Its time of change stays: it marks the index."""
    try:
        stat = place.stat()
        if size and stat.st_size != size:
            return False
        os.utime(place, ns=(time.time_ns(), stat.st_mtime_ns))
    except OSError:
        return False
    return True


def _evict(place: Path) -> None:
    place.unlink(missing_ok=True)
    for beside in (f".{place.name}.index.npz", f".{place.name}.lock"):
        place.with_name(beside).unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
