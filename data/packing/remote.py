"""Sources and images at a URL: whatever fsspec reaches.

A table is fetched whole before it is read, and so is a folder, images included. Images that a table
names by URLs are fetched when they are packed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from align_train.errors import UserError
from align_train.shards.remote import Vanished
from align_train.shards.retry import Source

# Seconds. An image has less patience than a shard: there are many, and a dead server has more.
_PATIENCE = 30.0
_STALL = 15.0


class NotFetched(Exception):
    """An image at a URL that did not come; the text is the reason, in one line."""


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image at a URL.

    Attributes:
        name: The path or URL as the table has it.
        url: Where it lies.
        source: Asks for it.
    """

    name: str
    url: str
    source: Source

    def __hash__(self) -> int:
        """By the URL alone: options of a source have no hash."""
        return hash(self.url)

    def read(self) -> bytes:
        """Fetches the image.

        Raises:
            NotFetched: It did not come.
        """
        try:
            return self.source.ask(self.url, _cat)
        except Vanished:
            raise NotFetched("no such file there") from None
        except UserError as error:
            # The URL is the image's name, which whoever prints this has.
            raise NotFetched(str(error).removeprefix(f"{self.url}: ")) from None


def source_of_images(options: Mapping[str, object]) -> Source:
    """Returns what asks for images.

    Args:
        options: For the file systems of fsspec.
    """
    return Source(options, _PATIENCE, _STALL)


def _cat(fs: Any, path: str) -> bytes:
    content: bytes = fs.cat_file(path)
    return content
