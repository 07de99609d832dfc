"""A folder of results with one file a shard: begun once, gone on in, never mixed with another's.

A file of settings says which model and shards the folder belongs to. Each shard's file appears
whole, so that a shard with a file is done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from align_train.errors import UserError
from align_train.files import write_whole
from align_train.index.identity import Identity

PAIRS_MUST_AGREE = {
    "manifest": "other shards or images",
    "counts": "other shards or images",
    "caption": "another caption",
    "image": "another image=…",
    "keys": "another keys=…",
}
"""Settings that say which images and texts a folder is of; if one differs, it is another's folder.
The text says how a difference is spelled."""


class Made(Protocol):
    """The settings that a folder was made with: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def identity(self) -> Identity:
        """What its numbers depend on."""

    @property
    def caption(self) -> str | list[str]:
        """As `data.caption`."""


M = TypeVar("M", bound=Made)


def begin_folder(
    file: Path,
    now: M,
    read: Callable[[Path], M],
    *,
    must_agree: Mapping[str, str],
    holds: str,
) -> M:
    """Makes a folder, or goes on in one.

    Args:
        file: Its file of settings.
        now: Those it is to be made with.
        read: Reads such a file.
        must_agree: The settings that must be the same, and how a difference is spelled.
        holds: What is in it, for an error.

    Returns:
        The settings that it was begun with.

    Raises:
        UserError: The folder belongs to another command, or to something else.
    """
    folder = file.parent
    # Before the next question: another process may make the folder right now.
    is_foreign = _holds_anything(folder)

    if file.exists():
        # The first start's settings hold, since the shards that are done were made with them.
        before = read(file)
        _refuse_other(folder, before, now, must_agree)
        return before

    if is_foreign:
        raise UserError(f"{folder}: exists and holds no {holds}; choose another folder")
    # Before any result: whoever finds some can see which model and shards they are of.
    write_file(file, json.dumps(asdict(now), indent=1))
    return now


def begun_caption(file: Path, read: Callable[[Path], Made]) -> str | list[str] | None:
    """The captions that a former start has found out, and that the folder keeps."""
    return read(file).caption if file.exists() else None


def _refuse_other(path: Path, before: Made, now: Made, must_agree: Mapping[str, str]) -> None:
    fix = "restore it, choose another folder, or remove this one"
    if changed := before.identity.difference(now.identity):
        raise UserError(f"{path}: was begun with another model ({changed}); {fix}")

    for name, difference in must_agree.items():
        if getattr(before, name) != getattr(now, name):
            raise UserError(f"{path}: was begun with {difference}; {fix}")


def _holds_anything(path: Path) -> bool:
    """Whether a path is a file, or a folder with more in it than hidden files."""
    if not path.exists():
        return False
    # Hidden files, e.g. a Mac's .DS_Store, do not make the folder somebody's.
    return not path.is_dir() or any(not entry.name.startswith(".") for entry in path.iterdir())


def write_file(path: Path, content: str | bytes | memoryview) -> None:
    """Writes a file of the folder whole; UserError if it cannot be written."""
    write_whole(path, content, fix="free some space or mend its rights, and run the command again")
