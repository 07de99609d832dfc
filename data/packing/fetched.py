"""Sources at URLs, fetched to a temporary folder beside the result, so that all readers are local.

A table is fetched alone: its images are fetched when they are packed, and start from its folder. A
folder is fetched whole, images included, by several threads.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from align_train.cluster.pools import threads
from align_train.errors import UserError, shown
from align_train.shards.file_system import FileSystem
from align_train.shards.foreign import is_foreign
from align_train.shards.remote import Unreachable, Vanished, is_url, stored_size
from align_train.shards.retry import Source

from ..tables.paths import paths_of
from .beside import locked_folder, remove_left
from .remote import as_of_pack
from .settings import PackSettings

_THREADS = 16
_WEB = ("http://", "https://")

# Seconds. A server that does not answer is given up soon, a large table is waited for.
_PATIENCE = 20.0
_LONGEST_FETCH = 3600.0
_STALL = 30.0
_IN_VAIN = 3  # attempts

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Fetched:
    """A source whose files lie here.

    Attributes:
        settings: Those of the command, with paths in place of URLs.
        url_of: From a path of a fetched file's folder to the URL that it stands for.
    """

    settings: PackSettings
    url_of: Mapping[str, str] = field(default_factory=dict)

    def as_given(self, text: str) -> str:
        """A line as the user knows the source: with URLs in place of temporary paths."""
        for path, url in self.url_of.items():
            text = text.replace(path, url)
        return text


@contextlib.contextmanager
def fetched(settings: PackSettings, to: Path) -> Iterator[Fetched]:
    """Fetches what the source names by URLs.

    Args:
        settings: Those of the command.
        to: The result's folder: the temporary one lies beside it, on the same disk.

    Yields:
        The source, for as long as it is needed.

    Raises:
        UserError: A file does not come; and errors of the block, with URLs in them.
    """
    names = paths_of(settings.source, "source")
    if not any(is_url(name) for name in names):
        yield Fetched(settings)
        return

    source = Source(settings.storage_options or {}, _PATIENCE, _STALL)
    with _folder_beside(to) as folder:
        local: list[str] = []
        url_of: dict[str, str] = {}
        root = settings.root
        for index, name in enumerate(names):
            if not is_url(name):
                local.append(name)
                continue
            # A folder for each source: two may have files of the same name.
            one = _One(name, source, Path(folder, str(index)))
            local += map(str, one.fetch())
            url_of[str(one.folder)] = one.base
            # Only the table came here: its paths start from its folder, which is at the URL.
            if root is None and one.is_table:
                root = one.base

        here = Fetched(replace(settings, source=_one_or_all(local), root=root), url_of)
        try:
            yield here
        except UserError as error:
            raise UserError(here.as_given(str(error))) from None


@contextlib.contextmanager
def _folder_beside(to: Path) -> Iterator[str]:
    """A temporary folder; those that killed commands left for the same result are removed."""
    to.parent.mkdir(parents=True, exist_ok=True)
    remove_left(to, r"source\.\w+")
    made = tempfile.TemporaryDirectory(prefix=f".{to.name}.source.", dir=to.parent)
    with made as folder, locked_folder(Path(folder)):
        yield folder


@contextlib.contextmanager
def _of_source(url: str) -> Iterator[None]:
    """Names the setting in an error of the retries."""
    try:
        yield
    except Vanished:
        raise UserError(f"source={shown(url)}: no such file there") from None
    except UserError as error:
        raise UserError(f"source={as_of_pack(error)}") from None


def _without_query(url: str) -> str:
    """The URL up to its path's end. A query may have slashes; to a store `?` is a letter."""
    return re.split("[?#]", url, maxsplit=1)[0] if url.startswith(_WEB) else url


def _one_or_all(paths: Sequence[str]) -> str | list[str]:
    return paths[0] if len(paths) == 1 else list(paths)


class _One:
    """One URL: a table, a glob of tables, or a folder.

    Attributes:
        folder: Where its files go.
        base: The URL of that folder.
        is_table: Whether it names tables, and no folder.
    """

    def __init__(self, url: str, source: Source, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.base = url.rstrip("/")
        self.is_table = False
        self._source = source
        try:
            self._path = PurePosixPath(urlsplit(url).path)
        except ValueError as error:
            raise UserError(f"source={shown(url)}: no URL ({error})") from None

    def fetch(self) -> list[Path]:
        """Returns the local files of tables, or the local folder."""
        # A query is no pattern: `?id=7`.
        if "*" in self.url or glob.has_magic(str(self._path)):
            found = self._listed(self.url, lambda fs, path: fs.glob(path))
        elif self._path.suffix:
            found = [self.url]
        else:
            return self._fetch_folder()

        self.is_table = True
        self.base = _without_query(self.url).rpartition("/")[0]
        if not found:
            raise UserError(f"source={shown(self.url)}: no such file there")
        # Of a pattern with folders, the part before them is the base.
        while not all(url.startswith(f"{self.base}/") for url in found):
            self.base = self.base.rpartition("/")[0]
        return self._fetch_all(found)

    def _fetch_folder(self) -> list[Path]:
        plain = _without_query(self.url)
        if plain != self.url:
            raise UserError(
                f"source={shown(self.url)}: a folder is listed at a URL without a query; give "
                f"source={shown(plain)}, or a table, whose name has an ending such as .csv"
            )
        found = self._listed(self.base, lambda fs, path: fs.find(path))
        prefix = f"{self.base}/"
        inner = [url for url in found if url.startswith(prefix) and not url.endswith("/")]
        own = [url for url in inner if not is_foreign(PurePosixPath(url.removeprefix(prefix)))]
        if not own:
            raise UserError(
                f"source={shown(self.url)}: no files in that folder, or no such folder; a URL "
                f"names a folder if its last part has no ending such as .csv"
            )
        self._fetch_all(own)
        return [self.folder]

    def _listed(self, url: str, question: Callable[[FileSystem, str], Sequence[str]]) -> list[str]:
        def urls(fs: FileSystem, path: str) -> list[str]:
            return sorted(str(fs.unstrip_protocol(found)) for found in question(fs, path))

        with _of_source(url):
            return self._source.ask(url, urls)

    def _fetch_all(self, urls: Sequence[str]) -> list[Path]:
        paths = [self._path_of(url) for url in urls]
        with threads(_THREADS) as pool:
            jobs = pool.map(self._fetch_one, urls, paths)
            # Going through the results is what raises a thread's error.
            for _ in tqdm(jobs, total=len(urls), desc="fetching", unit="file", delay=1):
                pass
        return paths

    def _path_of(self, url: str) -> Path:
        """The place of a file; never outside the folder, whatever a store calls its objects."""
        name = _without_query(url).removeprefix(f"{self.base}/")
        # On the web %20 is a space. In a store's names it is three letters.
        parts = PurePosixPath(unquote(name) if url.startswith(_WEB) else name).parts
        if not parts or ".." in parts or parts[0] == "/":
            raise UserError(f"source={shown(self.url)}: {shown(url)} is no name of a file")
        return self.folder.joinpath(*parts)

    def _fetch_one(self, url: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _of_source(url):
            attempts = _Attempts(path, self._source.ask(url, stored_size), self._source)
            # A large file may take an hour; the patience counts from the last attempt that got
            # further than those before.
            while True:
                patience = time.monotonic() + _PATIENCE
                try:
                    return self._source.insist(url, attempts.once, patience)
                except Unreachable:
                    if attempts.in_vain >= _IN_VAIN or time.monotonic() > attempts.deadline:
                        raise


class _Attempts:
    """Attempts at one file.

    Attributes:
        in_vain: Those since the last one that got further than all before it.
        deadline: When the last one ends, by `time.monotonic`.
    """

    def __init__(self, path: Path, size: int | None, source: Source) -> None:
        self.in_vain = 0
        self.deadline = time.monotonic() + _LONGEST_FETCH
        self._path = path
        self._size = size
        self._source = source
        self._most = 0

    def _arrived(self) -> int:
        return self._path.stat().st_size

    def once(self, fs: FileSystem, there: str) -> None:
        """One attempt, from its beginning: not all servers know ranges."""
        try:
            self._source.attempt(
                lambda: fs.get_file(there, str(self._path)), self.deadline, progress=self._arrived
            )
            # A table that was cut would be read as one with fewer rows.
            if self._size is not None and self._arrived() != self._size:
                raise OSError(f"{self._arrived()} of {self._size} bytes arrived")
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise UserError(
                    f"{self._path}: cannot be written ({error.strerror}); free some space, or "
                    f"choose another to=…"
                ) from None
            self._note()
            raise

    def _note(self) -> None:
        arrived = self._arrived() if self._path.exists() else 0
        self.in_vain = 0 if arrived > self._most else self.in_vain + 1
        self._most = max(self._most, arrived)
