"""An exported folder sent to a model repository of the Hugging Face hub.

One commit holds all files, so nobody ever loads half a model. Files are compared by their hashes
first, and only those that differ are sent. What a push that was cut has sent of the large ones lies
in the hub's store: the same command finds it there, and goes on. The library's own
`upload_large_folder` would make several commits.

Large files go by Xet, in chunks, if the server offers it; else whole, by LFS. huggingface_hub
since 2.0 does not ask, so this does.

The token is huggingface_hub's: `HF_TOKEN`, or the file of `hf auth login`. It goes into requests
only.

Price: one reading of each file for its hash, and a few small requests.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from align_train.commands.hub_answers import insist
from align_train.errors import UserError, shown
from align_train.shards.hub import is_offline

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoFile

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_LONGEST_NAME = 96  # the hub's own limit

CARD = "README.md"

# Loaders choose by these: one that an earlier export left would hide this one.
_EXCLUSIVE = {"config.json": "config.yaml", "config.yaml": "config.json"}

_BLOCK = 1 << 20
_SILENCE = 300.0  # seconds without a byte after which a connection counts as cut

Merge = Callable[[str, "str | None"], str]
"""Joins our card with the one that is there, if there is one."""


def check_push(name: str) -> None:
    """Checks a name on the hub and the right to write there, before a model is opened.

    Args:
        name: The setting `push`.

    Raises:
        UserError: It is no name; there is no token, or one that may not write; the hub cannot be
            reached.
    """
    is_name = _NAME.fullmatch(name) and len(name) <= _LONGEST_NAME
    # The hub refuses these as well, but only once the model has been written.
    if not is_name or "--" in name or ".." in name or name.endswith((".git", "-", ".")):
        raise UserError(f"push={shown(name)}: expected OWNER/NAME, as the hub has it")
    if is_offline():
        raise UserError(f"push={name}: HF_HUB_OFFLINE forbids to ask the hub; unset it")

    token = _token(name)
    api = _api(token)
    me = insist(lambda: api.whoami(token=token), name=f"push={name}", token=token)
    # Of other roles the hub says only at the push whether they may write there.
    role = ((me.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise UserError(
            f"push={name}: the token may only read; take one that may write "
            f"({api.endpoint}/settings/tokens)"
        )


def push(folder: Path, name: str, *, private: bool, merge: Merge) -> None:
    """Makes the hub's repository hold the files of a folder, and says what it has sent.

    Args:
        folder: The files, at most a few; folders in it do not count.
        name: `OWNER/NAME`. It is made if it is missing.
        private: Whether one that is made is private. One that is there keeps its visibility.
        merge: Joins the folder's card with the one that is there.

    Raises:
        UserError: The hub refuses, or cannot be reached.
    """
    token = _token(name)
    sending = _Sending(_api(token), folder, name, private, merge)
    insist(sending.once, name=f"push={name}", token=token)


@dataclass
class _Sending:
    """A push that may take several tries."""

    api: HfApi
    folder: Path
    name: str
    private: bool
    merge: Merge

    def __post_init__(self) -> None:
        # Kept from try to try: each file is read once.
        self._hashes: dict[Path, tuple[str, str]] = {}
        self._said_public = False

    def once(self) -> None:
        """One try, from the beginning: what is there already is not sent again."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, get_session

        get_session().timeout = _SILENCE
        about = self._repository()
        there = self._files_there(about)
        card = self.merge(
            (self.folder / CARD).read_text(encoding="utf-8"), self._card_there(there, about)
        )
        missing = self._missing(there, card)
        left_over = [name for name in there if (self.folder / _EXCLUSIVE.get(name, "-")).is_file()]
        page = f"{self.api.endpoint}/{self.name}"
        if not missing and not left_over:
            print(f"{page}: nothing to send, all {self._count} files are there", flush=True)
            return

        size = sum(path.stat().st_size for path in missing.values())
        print(
            f"{page}: sending {len(missing)} of {self._count} files, {size / 1e6:.1f} MB",
            flush=True,
        )
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationDelete(name) for name in left_over
        ]
        for name, path in missing.items():
            # The card is joined with the one that is there, so it differs from the file.
            content = card.encode() if name == CARD else path
            operations.append(CommitOperationAdd(name, content))
        self._choose_transfer()
        self.api.create_commit(
            self.name,
            operations,
            commit_message="Export by align_train",
            # If somebody commits after our look, the hub refuses: two states would be mixed.
            parent_commit=about.sha,
        )
        removed = f"; {', '.join(left_over)} of another format removed" if left_over else ""
        print(f"{page}: complete{removed}", flush=True)

    @property
    def _paths(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_file())

    @property
    def _count(self) -> int:
        return len(self._paths)

    def _repository(self) -> ModelInfo:
        """The repository as it is now, made if it is missing."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            about = self.api.model_info(self.name)
        except RepositoryNotFoundError:
            # Somebody else may make it in the same moment.
            self.api.create_repo(self.name, private=self.private, exist_ok=True)
            about = self.api.model_info(self.name)
        if self.private and about.private is False and not self._said_public:
            self._said_public = True
            print(f"{self.name}: public already, and stays so", flush=True)
        return about

    def _files_there(self, about: ModelInfo) -> dict[str, RepoFile]:
        from huggingface_hub.hf_api import RepoFile

        names = [path.name for path in self._paths]
        # The config of the other format too, as an earlier export may have left it.
        asked = [*names, *_EXCLUSIVE]
        found = self.api.get_paths_info(self.name, asked, revision=about.sha)
        return {file.path: file for file in found if isinstance(file, RepoFile)}

    def _card_there(self, there: dict[str, RepoFile], about: ModelInfo) -> str | None:
        if CARD not in there:
            return None
        # A folder of its own: the user's cache would keep each version.
        with tempfile.TemporaryDirectory() as cache:
            path = self.api.hf_hub_download(self.name, CARD, revision=about.sha, cache_dir=cache)
            return Path(path).read_text(encoding="utf-8")

    def _missing(self, there: dict[str, RepoFile], card: str) -> dict[str, Path]:
        """The files that the repository lacks, or has in another version."""
        missing = {}
        for path in self._paths:
            file = there.get(path.name)
            if path.name == CARD:
                sha256, blob = _hashes_of(card.encode())
            else:
                if path not in self._hashes:
                    self._hashes[path] = _hashes_of(path)
                sha256, blob = self._hashes[path]

            same = file is not None and (
                file.lfs.sha256 == sha256 if file.lfs is not None else file.blob_id == blob
            )
            if not same:
                missing[path.name] = path
        return missing

    def _choose_transfer(self) -> None:
        """Sends large files by LFS if the server has no Xet: a mirror, or a server of one's own."""
        from huggingface_hub import constants, get_session

        if constants.HF_HUB_DISABLE_XET:
            return
        url = f"{self.api.endpoint}/api/models/{self.name}/xet-write-token/main"
        headers = {"Authorization": f"Bearer {self.api.token}"}
        answer = get_session().get(url, headers=headers)
        if answer.status_code in (404, 405, 501):
            constants.HF_HUB_DISABLE_XET = True


def _hashes_of(content: Path | bytes) -> tuple[str, str]:
    """The hashes of a file as LFS and as git know it."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    whole = hashlib.sha256()
    # git hashes this header before the content.
    blob = hashlib.sha1(f"blob {size}\0".encode())
    if isinstance(content, bytes):
        whole.update(content)
        blob.update(content)
        return whole.hexdigest(), blob.hexdigest()

    with content.open("rb") as file:
        while block := file.read(_BLOCK):
            whole.update(block)
            blob.update(block)
    return whole.hexdigest(), blob.hexdigest()


def _api(token: str) -> HfApi:
    import huggingface_hub.utils as library
    from huggingface_hub import HfApi

    # Its warnings of each try show signed URLs; this command says one line of its own.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        library.disable_progress_bars()  # type: ignore[attr-defined]
    return HfApi(token=token)


def _token(name: str) -> str:
    from huggingface_hub import get_token

    token: str | None = get_token()
    if token is None:
        raise UserError(f"push={name}: no token; log in with `hf auth login`, or set HF_TOKEN")
    if not (token.isascii() and token.isprintable()):
        raise UserError(
            f"push={name}: the token has characters that no token has; set HF_TOKEN anew, or log "
            f"in again with `hf auth login`"
        )
    return token
