"""What a data set on the hub holds, asked for once.

A branch may move while a run goes on, or between two starts. So the revision that the user gives is
resolved to its commit once, by rank 0, and everything is then read at that commit. The run's
lineage has the commit, and a resumed run starts from there.

A commit never changes. So listings are kept in the shard cache's folder, and asked for once a
machine. Without a network a run goes on with these and the shards that are there.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from align_train.cluster.sharing import from_first
from align_train.errors import UserError
from align_train.files import write_whole
from align_train.shards.cache_space import CacheSpace
from align_train.shards.file_system import FileSystem
from align_train.shards.hub import Address, headers, is_offline
from align_train.shards.remote import Unreachable, Vanished
from align_train.shards.retry import Result, Source

_listing = Lock()

_TRIES = 3  # to reach the hub, if an answer of before would do
_CONTACT = 60.0  # seconds in which a hub that nobody has reached yet must answer
_IF_SILENT = "check the network, its proxy (https_proxy), and HF_ENDPOINT"


class Hub:
    """The data sets of the hub that a run reads.

    Attributes:
        commits: By data set and revision (`hf://datasets/OWNER/NAME@main`) the commit in use.
    """

    def __init__(self, source: Source, space: CacheSpace, known: Mapping[str, str]) -> None:
        """Asks nothing yet.

        Args:
            source: How to ask.
            space: The shard cache's folder, for answers that are kept.
            known: Commits that a run has used before, as in `commits`.
        """
        self.commits: dict[str, str] = {}
        self._source = source
        self._space = space
        self._known = known
        self._sizes: dict[str, int] = {}
        self._is_reached = False

    def pinned(self, url: str) -> str:
        """Returns a URL with the commit in place of the revision.

        Collective the first time that a data set is named: rank 0 asks for all ranks.

        Args:
            url: A file, folder or pattern.

        Raises:
            UserError: The hub refuses or does not answer, or there is no such revision.
        """
        address = Address.parse(url)
        if address.is_pinned:
            return address.url

        repository = address.repository
        if repository not in self.commits:
            ask = partial(self._commit, address)
            # A resumed run stays at the commit of its lineage, even if the branch has moved.
            known = self._known.get(repository)
            self.commits[repository] = known or from_first(f"commit {repository}", ask)
        return address.at(self.commits[repository]).url

    def glob(self, pattern: str) -> list[str]:
        """Returns the URLs of the files that match a pattern.

        Raises:
            Vanished: There is no such folder.
            UserError: The hub does not answer.
        """
        from fsspec.utils import glob_translate

        address = Address.parse(self.pinned(pattern))
        # The deepest folder without a pattern in its name: the hub lists folders, not patterns.
        folder, _, _ = address.path.rpartition("/")
        deep = glob.has_magic(folder) or "**" in address.path
        while glob.has_magic(folder):
            folder = folder.rpartition("/")[0]

        matches = re.compile(glob_translate(address.path)).match
        files = self._files(replace(address, path=folder), deep=deep)
        return sorted(url for url in files if matches(Address.parse(url).path))

    def size(self, url: str) -> int:
        """Returns a file's size in bytes. The folder is listed, which gives those of all files.

        Raises:
            Vanished: There is no such file.
            UserError: The hub does not answer.
        """
        address = Address.parse(self.pinned(url))
        if address.url not in self._sizes:
            folder = replace(address, path=address.path.rpartition("/")[0])
            self._sizes |= self._files(folder, deep=False)
        if address.url not in self._sizes:
            raise Vanished(f"{url}: no such file there; check data.shards")
        return self._sizes[address.url]

    def _commit(self, address: Address) -> str:
        """Asks for the commit of a revision; offline it is the last one that was seen."""
        repository = address.repository
        kept = self._kept(repository)
        last = kept.read_text() if kept.exists() else None
        if is_offline():
            if last is None:
                raise UserError(
                    f"{repository}: HF_HUB_OFFLINE is set, and this revision was never read here; "
                    f"unset it, or give the commit: {address.at('COMMIT').url}"
                )
            return last

        def ask(fs: FileSystem, _: str) -> str:
            answer, _ = _get(fs, address.api("revision"))
            return str(answer["sha"])

        try:
            commit = self._ask(repository, ask, tries=None if last is None else _TRIES)
        except Vanished:
            raise UserError(
                f"{repository}: 404: no such data set or revision; check both names, or set "
                f"HF_TOKEN if it is private"
            ) from None
        except Unreachable as error:
            if last is None:
                raise
            print(f"align_train: {error}; taken at {last}, as seen before", file=sys.stderr)
            return last

        self._keep(kept, commit)
        return commit

    def _files(self, folder: Address, *, deep: bool) -> dict[str, int]:
        """The files in a folder of a commit: their URLs and sizes."""
        # Several threads count shards at a time: the first one lists for all.
        with _listing:
            sizes = self._listed(folder, deep)
        files = {replace(folder, path=path).url: size for path, size in sizes.items()}
        self._sizes |= files
        return files

    def _listed(self, folder: Address, deep: bool) -> dict[str, int]:
        """A listing that was kept, or a new one: paths and sizes."""
        # The URL has the commit in it, so an answer that was kept stays right.
        kept = self._kept(f"{folder.url} {deep}")
        if kept.exists():
            before: dict[str, int] = json.loads(kept.read_text())
            return before
        if is_offline():
            raise UserError(
                f"{folder.url}: HF_HUB_OFFLINE is set, and this folder was never listed here; "
                f"unset it"
            )

        # Something small first: a long listing would not show soon that the hub is out of reach.
        if not self._is_reached:
            self._ask(folder.url, lambda fs, _: _get(fs, folder.api("revision")))
        sizes = self._source.ask(folder.url, lambda fs, _: _list(fs, folder, deep))
        self._keep(kept, json.dumps(sizes))
        return sizes

    def _ask(
        self, url: str, question: Callable[[FileSystem, str], Result], *, tries: int | None = None
    ) -> Result:
        """Asks for something small, which shows at once whether the hub can be reached."""
        contact = None if self._is_reached else min(_CONTACT, self._source.patience)
        source = replace(self._source, tries=tries, contact=contact, if_silent=_IF_SILENT)
        answer = source.ask(url, question)
        self._is_reached = True
        return answer

    def _kept(self, question: str) -> Path:
        """The file of an answer."""
        name = hashlib.sha256(question.encode()).hexdigest()[:16]
        return self._space.path / f".{name}.hub"

    def _keep(self, path: Path, answer: str) -> None:
        # Whoever may only read the folder can go on without.
        with contextlib.suppress(UserError):
            self._space.make()
            write_whole(path, answer, fix="")


def _list(fs: FileSystem, folder: Address, deep: bool) -> dict[str, int]:
    """Lists a folder by as many requests as it has pages, and none beside."""
    address = folder.api("tree", folder.path)
    query = f"recursive={str(deep).lower()}"
    sizes: dict[str, int] = {}
    while query:
        entries, query = _get(fs, f"{address}?{query}")
        sizes |= {entry["path"]: entry["size"] for entry in entries if entry["type"] == "file"}
    return sizes


def _get(web: FileSystem, url: str) -> tuple[Any, str]:
    """Asks the hub's API; returns its answer, and the query of the page that follows it."""
    from fsspec.asyn import sync

    fs: Any = web  # of the class HTTPFileSystem, by its session

    async def get() -> tuple[Any, str]:
        session = await fs.set_session()
        async with session.get(fs.encode_url(url), headers=headers()) as response:
            if response.status == 404:
                raise FileNotFoundError(url)
            response.raise_for_status()
            following = response.links.get("next", {}).get("url", "")
            # Only the query: a mirror's answer may name the hub itself.
            return await response.json(), urlsplit(str(following)).query

    answer: tuple[Any, str] = sync(fs.loop, get)
    return answer
