"""The images of pairs: files where they lie, or bytes that stood in a table.

Bytes are spooled: a shuffle takes them in another order than the table does, and all of them are
more than memory holds.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

from align_train.errors import UserError

_DIGEST = 16  # bytes; two images of a billion have the same one with a chance of 1e-21


class Image(Protocol):
    """An image that can be read. Two that are equal are the same one."""

    @property
    def name(self) -> str:
        """The image's name in its source; its ending is a hint, no promise."""

    def read(self) -> bytes:
        """Reads the whole image; OSError: it cannot be read."""

    def __hash__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image in a file of its own.

    Attributes:
        name: The path as the table has it, or as the source's folder does.
        root: The folder from which it starts; the same object for all images, which saves memory.
    """

    name: str
    root: Path

    @property
    def path(self) -> Path:
        """The file."""
        return self.root / self.name

    def read(self) -> bytes:
        """Reads the file."""
        return self.path.read_bytes()


# Not compared by value: `Spool.keep` gives equal bytes the same object.
@dataclass(frozen=True, slots=True, eq=False)
class SpooledImage:
    """An image that came as bytes.

    Attributes:
        name: The name that the table gives it, or its row.
        spool: The file that holds it.
        offset: Where in that file it begins, in bytes.
        size: In bytes.
    """

    name: str
    spool: IO[bytes]
    offset: int
    size: int

    def read(self) -> bytes:
        """Reads the bytes from the spool's file."""
        # `pread` does not move the position at which the next image is written.
        return os.pread(self.spool.fileno(), self.size, self.offset)


@dataclass(frozen=True, slots=True)
class Pair:
    """An image with its texts.

    Attributes:
        image: A file, or bytes.
        texts: All different ones, in the order in which the source has them.
    """

    image: Image
    texts: list[str]


class Spool:
    """One temporary file for images that came as bytes.

    The file has no name: it is gone when the process is, however that ends.
    """

    def __init__(self, beside: Path) -> None:
        """Makes nothing yet.

        Args:
            beside: What is to be written in the end; the file takes space on the same disk.
        """
        self._beside = beside
        self._file: IO[bytes] | None = None
        self._size = 0
        self._known: dict[bytes, SpooledImage] = {}

    def __enter__(self) -> Spool:
        """Begins."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Removes the file."""
        if self._file is not None:
            self._file.close()

    def keep(self, data: bytes, name: str) -> SpooledImage:
        """Writes an image, unless the same bytes came before.

        Args:
            data: The image.
            name: Its name in the source. Equal bytes keep the name that came first.

        Returns:
            The same object for the same bytes.

        Raises:
            UserError: The disk is full.
        """
        digest = blake2b(data, digest_size=_DIGEST).digest()
        image = self._known.get(digest)
        if image is not None:
            return image

        file = self._write(data)
        image = SpooledImage(name, file, self._size, len(data))
        self._known[digest] = image
        self._size += len(data)
        return image

    def _write(self, data: bytes) -> IO[bytes]:
        folder = self._beside.parent
        try:
            if self._file is None:
                folder.mkdir(parents=True, exist_ok=True)
                # Unbuffered: what is written can be read at once.
                self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
            _write_all(self._file.fileno(), data)
        except OSError as error:
            raise UserError(
                f"{folder}: the table's images cannot be kept there while they are packed "
                f"({error.strerror}); free some space, or choose another to=…"
            ) from None
        return self._file


def _write_all(file: int, data: bytes) -> None:
    """Writes all of it: one call may write less, at most 2 GB."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
