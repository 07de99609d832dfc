"""The shard cache: shards fetched whole, from any place that fsspec reaches, to a bounded folder.

The processes of a node share the folder. A fetch goes to a file beside the copy, which is checked
for its size and renamed: each copy is whole. Two processes that want the same shard fetch it once,
by a file lock. Before a fetch the least recently used shards make room (`cache_space.py`). Errors,
cut bodies and stalls are tried again until `patience` is over, then there is one clear error and
never a hang (`retry.py`).

Readers keep a shard open. If it is evicted meanwhile, they read it to its end; if it is wanted
again, it is fetched again.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from align_train.errors import UserError
from align_train.files import cache_folder, locked
from align_train.shards.cache_space import CacheSpace, evict, lock_path, touch
from align_train.shards.file_system import FileSystem
from align_train.shards.hub import is_hub, is_offline
from align_train.shards.hub_listing import Hub
from align_train.shards.remote import is_url, stored_size
from align_train.shards.retry import Source


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """The node's folder of fetched shards: the settings under `data.staging`.

    Attributes:
        folder: The folder; None: `align_train/shards` in the user's cache folder.
        limit_gb: Space for the shards, in 10^9 bytes.
        paths: Whether to fetch shards at plain paths too (a network file system), not only URLs.
        patience: Seconds until a source that does not deliver stops the run.
        stall: Seconds without a byte after which an attempt is given up.
        fetches: How many shards each rank fetches at a time, ahead of need.
        storage_options: For the file systems of fsspec.
        revisions: Commits of data sets on the hub that a run has used before; see `Hub.commits`.

    Raises:
        UserError: A number is not above 0.
    """

    folder: str | None = None
    limit_gb: float = 100.0
    paths: bool = False
    patience: float = 600.0
    stall: float = 30.0
    fetches: int = 8
    storage_options: Mapping[str, object] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("limit_gb", "patience", "stall", "fetches"):
            value = getattr(self, name)
            if not value > 0:
                raise UserError(f"data.staging.{name}={value}: expected a number above 0")

    @property
    def path(self) -> Path:
        """The folder."""
        if self.folder is None:
            return cache_folder("shards")
        return Path(self.folder).expanduser().absolute()

    @cached_property
    def hub(self) -> Hub:
        """The data sets of the hub, at one commit each."""
        return Hub(self._source, self._space, self.revisions)

    def pinned(self, url: str) -> str:
        """A URL of the hub at its commit, see `Hub.pinned`; any other as it is."""
        return self.hub.pinned(url) if is_hub(url) else url

    def wants(self, url: str) -> bool:
        """Whether a shard is fetched to the cache; if not, it is read at its path."""
        return is_url(url) or self.paths

    def local(self, url: str, size: int | None = None) -> Path:
        """A local path of a whole shard. Fetches the shard if there is no copy.

        Args:
            url: The shard's URL or path.
            size: Its bytes by the manifest; a copy of another size is out of date. None: any.

        Returns:
            The copy's path, or the shard's own if the cache does not want it.

        Raises:
            Vanished: The source says that the file does not exist.
            UserError: The shard cannot be fetched, or there is no room for it.
        """
        if not self.wants(url):
            return Path(url)

        # The commit is a part of the copy's name: a branch that has moved finds no old copy.
        url = self.pinned(url)
        copy = self.path_of(url)
        # No lock is needed here: a file of that name is whole.
        if touch(copy, size):
            return copy

        self._space.make()
        # The patience covers both the wait for the lock and the fetch.
        deadline = time.monotonic() + self.patience
        refusal = (
            f"{url}: cannot be fetched; another process has tried for {self.patience:g} s "
            f"(data.staging.patience)"
        )
        with locked(lock_path(copy), deadline, refusal=refusal):
            # Another process may have fetched it while this one waited for the lock.
            if not touch(copy, size):
                self._fetch(url, size, copy, deadline)
        return copy

    def path_of(self, url: str) -> Path:
        """The path that the copy of a shard has or will have."""
        return self._space.copy_of(url)

    def size(self, url: str) -> int | None:
        """A shard's size at its source, in bytes.

        Args:
            url: The shard's URL or path.

        Returns:
            The size; None if the source does not say, or if the cache does not want the shard.

        Raises:
            Vanished: The source says that the file does not exist.
            UserError: The source does not answer.
        """
        if not self.wants(url):
            return None
        if is_hub(url):
            return self.hub.size(url)
        return self._source.ask(url, stored_size)

    def glob(self, pattern: str) -> list[str]:
        """The URLs that match a pattern; UserError if the source does not answer."""

        def matches(fs: FileSystem, path: str) -> list[str]:
            # Matches come without a scheme, and shards are named by URLs.
            return [fs.unstrip_protocol(match) for match in fs.glob(path)]

        if is_hub(pattern):
            return self.hub.glob(pattern)
        return self._source.ask(pattern, matches)

    def read(self, url: str) -> bytes:
        """Reads a small file, always from its source.

        Args:
            url: The file's URL or path.

        Returns:
            Its bytes.

        Raises:
            Vanished: The source says that the file does not exist.
            UserError: The file cannot be read or fetched.
        """
        if not is_url(url):
            try:
                return Path(url).read_bytes()
            except OSError as error:
                raise UserError(
                    f"{url}: cannot be read ({error.strerror}); check the path"
                ) from None

        # A file of a commit never changes: a copy is kept, for all processes of the machine.
        if is_hub(url):
            return self.local(url).read_bytes()

        # A manifest may change at its URL, so no copy of it is kept.
        self._space.make()
        copy = self._space.temporary(url)
        try:
            self._fetch(url, None, copy, time.monotonic() + self.patience)
            return copy.read_bytes()
        finally:
            copy.unlink(missing_ok=True)

    def check_offline(self, urls: Sequence[str]) -> None:
        """Checks that all shards of the hub are here, if the user forbids to ask the hub.

        Args:
            urls: The shards that will be wanted.

        Raises:
            UserError: Some are missing.
        """
        if not is_offline():
            return
        missing = [url for url in urls if is_hub(url) and not self.path_of(url).exists()]
        if missing:
            raise UserError(
                f"{missing[0]}: not in {self.path}, as {len(missing)} of {len(urls)} shards, and "
                f"HF_HUB_OFFLINE is set; unset it, or give data.staging.folder"
            )

    def renew(self, urls: list[str]) -> None:
        """Marks shards as in use, so that they are the last to be evicted."""
        for url in urls:
            touch(self.path_of(url))

    def forget(self, url: str) -> None:
        """Removes a copy that turned out to be out of date."""
        if self.wants(url):
            evict(self.path_of(url))

    def sweep(self) -> None:
        """Removes the unfinished fetches of killed processes."""
        self._space.sweep()

    def free_space(self) -> int:
        """Bytes that the folder's disk could give to shards, those that they take now included."""
        return self._space.available()

    @property
    def _space(self) -> CacheSpace:
        return CacheSpace(self.path, self.limit_gb, self.patience)

    @property
    def _source(self) -> Source:
        return Source(self.storage_options, self.patience, self.stall)

    def _fetch(self, url: str, size: int | None, copy: Path, deadline: float) -> None:
        def once(fs: FileSystem, path: str) -> None:
            with self._errors_of_the_folder():
                self._fetch_once(fs, path, url=url, size=size, copy=copy, deadline=deadline)

        self._source.insist(url, once, deadline)

    def _fetch_once(
        self, fs: FileSystem, path: str, *, url: str, size: int | None, copy: Path, deadline: float
    ) -> None:
        source = self._source

        def size_at_source() -> int | None:
            return source.attempt(lambda: stored_size(fs, path), deadline)

        self._space.make()
        # The size is wanted first, to make room for it; 0 if nobody knows it.
        expected = size or size_at_source() or 0
        partial = self._space.reserve(copy, expected)
        try:
            source.attempt(
                lambda: fs.get_file(path, str(partial)),
                deadline,
                progress=lambda: partial.stat().st_size,
                # The thread of an attempt that was given up may still write after the attempt.
                left_behind=lambda: partial.unlink(missing_ok=True),
            )

            arrived = partial.stat().st_size
            if expected and arrived != expected:
                # If the whole file arrived, the manifest is wrong: trying again would not help.
                if size_at_source() == arrived:
                    raise UserError(
                        f"{url}: holds {arrived} bytes, the manifest says {expected}; "
                        f"make the manifest anew"
                    )
                raise OSError(f"{arrived} of {expected} bytes arrived")
            os.replace(partial, copy)
        finally:
            partial.unlink(missing_ok=True)

    def _holds(self, file: object) -> bool:
        """Whether an error's file lies in the cache's folder."""
        return str(file or "").startswith(str(self.path))

    @contextmanager
    def _errors_of_the_folder(self) -> Iterator[None]:
        """Keeps errors of the cache's disk apart from those of the source."""
        try:
            yield
        except FileNotFoundError as error:
            if not self._holds(error.filename):
                raise
            # Someone emptied the folder: that says nothing about the source, so try again.
            raise OSError(f"{error.filename}: gone") from error
        except OSError as error:
            # Its copies or locks, if another user's rights or a sticky folder keep them from us.
            if isinstance(error, PermissionError) and self._holds(error.filename):
                raise self._space.refusal(f"{error.strerror} ({error.filename})") from None
            if error.errno != errno.ENOSPC:
                raise
            raise UserError(
                f"{self.path}: no space left; free some, or set data.staging.folder"
            ) from None
