"""A folder of results with one file a shard: begun once, gone on in, never mixed with another's.

A file of settings says which model and shards the folder belongs to. Each shard's file appears
whole, so that a shard with a file is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from align_train.errors import UserError
from align_train.files import write_whole
from align_train.index.identity import Identity


class Made(Protocol):
    """The settings that a folder was made with."""

    @property
    def identity(self) -> Identity:
        """What its numbers depend on."""


def refuse_other(path: Path, before: Made, now: Made, must_agree: Mapping[str, str]) -> None:
    """Refuses to go on in a folder that belongs to another command.

    Args:
        path: The folder.
        before: The settings that it was begun with.
        now: Those of this command.
        must_agree: The settings that must be the same, and how a difference is spelled.

    Raises:
        UserError: One of them differs, or the model does.
    """
    fix = "restore it, choose another folder, or remove this one"
    if changed := before.identity.difference(now.identity):
        raise UserError(f"{path}: was begun with another model ({changed}); {fix}")

    for name, difference in must_agree.items():
        if getattr(before, name) != getattr(now, name):
            raise UserError(f"{path}: was begun with {difference}; {fix}")


def holds_anything(path: Path) -> bool:
    """Whether a path is a file, or a folder with more in it than hidden files."""
    if not path.exists():
        return False
    return not path.is_dir() or any(not entry.name.startswith(".") for entry in path.iterdir())


def write_file(path: Path, content: str | bytes | memoryview) -> None:
    """Writes a file of the folder whole; UserError if it cannot be written."""
    write_whole(path, content, fix="free some space or mend its rights, and run the command again")
