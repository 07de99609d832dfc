"""The file systems of remote places, as far as shards are read from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class FileSystem(Protocol):
    """What is asked of a file system of fsspec; its package has no types."""

    def info(self, path: str) -> Mapping[str, int | None]:
        """Its `size` is None if the store does not say."""

    def glob(self, path: str) -> Sequence[str]:
        """The paths that match a pattern."""

    def find(self, path: str) -> Sequence[str]:
        """The files in a folder, at any depth."""

    def unstrip_protocol(self, name: str) -> str:
        """The URL of a path."""

    def get_file(self, rpath: str, lpath: str) -> None:
        """Copies a file to this machine."""

    def cat_file(self, path: str) -> bytes:
        """Reads a whole file."""
