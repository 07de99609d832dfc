"""Data sets on the Hugging Face hub: `hf://datasets/OWNER/NAME@REVISION/PATH`.

A file is fetched from its `resolve` URL over plain HTTP: one request a shard, of the kind of which
the hub allows the most. huggingface_hub's own file system first asks the hub's API about each file.

The token is that of huggingface_hub (`HF_TOKEN`, or the file of `hf auth login`). It goes into
requests only. It never comes to another host: aiohttp drops it at a redirect.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from align_train.errors import UserError, shown

_SCHEME = "hf://"
_HUB = "https://huggingface.co"
_DEFAULT_REVISION = "main"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ADDRESS = re.compile(
    r"hf://datasets/(?P<dataset>[\w.-]+/[\w.-]+)"
    # Two kinds of branches have slashes; in any other name they are quoted as %2F.
    r"(@(?P<revision>refs/(convert|pr)/[^/]+|[^/]+))?(/(?P<path>.*))?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Address:
    """A place in a data set of the hub.

    Attributes:
        dataset: `OWNER/NAME`.
        revision: A branch, tag or commit.
        path: A file, folder or pattern; empty: the top folder.
    """

    dataset: str
    revision: str
    path: str

    @staticmethod
    def parse(url: str) -> Address:
        """Reads an `hf://` URL; UserError if it names no data set."""
        found = _ADDRESS.fullmatch(url)
        if not found:
            raise UserError(
                f"{shown(url)}: expected hf://datasets/OWNER/NAME/PATH, or "
                f"hf://datasets/OWNER/NAME@REVISION/PATH"
            )
        revision = unquote(found["revision"] or _DEFAULT_REVISION)
        return Address(found["dataset"], revision, (found["path"] or "").strip("/"))

    @property
    def repository(self) -> str:
        """The data set with its revision, as a URL."""
        # A revision may have slashes, which would look like parts of the path.
        return f"{_SCHEME}datasets/{self.dataset}@{quote(self.revision, safe='')}"

    @property
    def url(self) -> str:
        """The place as a URL."""
        return f"{self.repository}/{self.path}".rstrip("/")

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return _COMMIT.fullmatch(self.revision) is not None

    def at(self, commit: str) -> Address:
        """The same place in a commit."""
        return replace(self, revision=commit)

    @property
    def download(self) -> str:
        """The URL from which the hub serves the file."""
        revision = quote(self.revision, safe="")
        return f"{_endpoint()}/datasets/{self.dataset}/resolve/{revision}/{quote(self.path)}"

    def api(self, kind: str, path: str = "") -> str:
        """The URL of a question about the data set.

        Args:
            kind: `revision` or `tree`.
            path: A folder.
        """
        revision = quote(self.revision, safe="")
        url = f"{_endpoint()}/api/datasets/{self.dataset}/{kind}/{revision}/{quote(path)}"
        return url.rstrip("/")

    def refusal(self, status: int | None) -> str:
        """Says why the hub may refuse, and what to do: it answers alike in all these cases."""
        page = f"{_endpoint()}/datasets/{self.dataset}"
        fix = "set HF_TOKEN, "
        if _token() is not None:
            fix = "with the account of the token in use (HF_TOKEN, or hf auth login), "
        return (
            f"{self.url}: {status}: gated or private, or there is no such data set; {fix}accept "
            f"the terms at {page}, or check the name"
        )


def is_hub(url: str) -> bool:
    """Whether this is a URL of the hub."""
    return url.startswith(_SCHEME)


def is_offline() -> bool:
    """Whether the user forbids to ask the hub, by huggingface_hub's own variables."""
    given = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return given.upper() in ("1", "ON", "YES", "TRUE")


def headers() -> dict[str, str]:
    """The headers of each request to the hub."""
    # The hub compresses texts, and then tells the size of what it sends, not of the file.
    plain = {"Accept-Encoding": "identity", "User-Agent": "align_train"}
    token = _token()
    return plain if token is None else plain | {"Authorization": f"Bearer {token}"}


def _endpoint() -> str:
    # Read anew: huggingface_hub reads it once, when it is imported.
    return (os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")


def _token() -> str | None:
    # Imported here: shards on a disk have no use for it.
    from huggingface_hub import get_token

    token: str | None = get_token()
    return token
