"""The index of a tar: where each of its members lies, built by one pass over the tar's headers.

The index is an `.npz` of plain arrays beside the tar, or in the user's cache folder if the tar's
folder is read-only. It counts only as long as the tar has the same size and time of change.

Price: building reads 512 bytes a member. An open index takes about 40 bytes a member.
"""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from align_train.files import cache_folder, whole
from align_train.shards.caption import NO_TEXT, SECOND, CaptionSource

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")

LINK = -1  # stands in place of a link's size

_INDEX_VERSION = 3

# Bytes. All names of an index are as wide as its widest.
_LONGEST_NAME = 1024
_KEPT_OF_A_LONG_NAME = 64

_LONGEST_REASON = 80  # characters of tarfile's error that a fault quotes


@dataclass(frozen=True)
class ShardIndex:
    """Where each member of a tar lies: parallel arrays, one element a member, in the tar's order.

    Attributes:
        names: The pairs' keys, without extension, UTF-8.
        extensions: In lower case, without the dot.
        offsets: Where each member's data begins, in bytes.
        sizes: In bytes; -1 if the member is a link.
        fault: Why the tar cannot be read to its end, or empty. Members before the fault are listed.
        surplus: Bytes in the file after the end of the tar.
    """

    names: NDArray[np.bytes_]
    extensions: NDArray[np.bytes_]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    fault: str = ""
    surplus: int = 0

    def pairs(self, caption: CaptionSource) -> NDArray[np.int64]:
        """Finds the pairs: the images in the tar's order, each with its text.

        Args:
            caption: Which members are texts.

        Returns:
            Indices of members `[pairs, 2]`: the image's and the text's. A negative number in place
            of the text's names the fault: `NO_TEXT`, or `SECOND` image under the same key.
        """
        image_extensions = {extension.encode() for extension in IMAGE_EXTENSIONS}
        text_extension = caption.extension.encode()

        images: list[tuple[bytes, int]] = []
        text_of: dict[bytes, int] = {}
        members = zip(self.names.tolist(), self.extensions.tolist(), strict=True)
        for member, (name, extension) in enumerate(members):
            if extension in image_extensions:
                images.append((name, member))
            elif extension == text_extension:
                text_of.setdefault(name, member)  # of several texts the first counts

        # In a dict the last of equal keys stays, so reversed, the first image does.
        first_image = dict(reversed(images))
        rows = []
        for name, member in images:
            text = text_of.get(name, NO_TEXT) if first_image[name] == member else SECOND
            rows.append((member, text))
        return np.asarray(rows, dtype=np.int64).reshape(-1, 2)


def load_index(path: Path) -> ShardIndex:
    """The index of a tar. It is read from its file, or built and kept in one.

    Args:
        path: The tar.

    Returns:
        The index.

    Raises:
        OSError: The tar cannot be read.
    """
    stat = path.stat()
    stamp = np.array([_INDEX_VERSION, stat.st_size, stat.st_mtime_ns], dtype=np.int64)

    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    # The second place is for tars in folders that are read-only.
    beside = path.with_name(f".{path.name}.index.npz")
    in_cache = cache_folder("indices") / f"{digest}.index.npz"
    for file in (beside, in_cache):
        index = _read_index(file, stamp)
        if index is not None:
            return index

    index = build_index(path)
    # If neither file can be written, the index is built again next time.
    for file in (beside, in_cache):
        if _write_index(file, index, stamp):
            break
    return index


def build_index(path: Path) -> ShardIndex:
    """Reads the headers of a tar. No member is unpacked.

    Args:
        path: The tar.

    Returns:
        The index, with a `fault` if the tar is broken.

    Raises:
        OSError: The file itself cannot be read.
    """
    members: list[_Member] = []
    length = path.stat().st_size
    fault = ""
    end = 0

    try:
        # "r:" refuses compressed tars, whose members cannot be reached by an offset.
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                member = _member(info, length)
                if member is not None:
                    members.append(member)
            end = tar.offset

        if not _ends_at(path, end):
            fault = "the tar is cut short"
        elif not members:
            fault = "the tar holds no members"
    except (tarfile.TarError, EOFError, ValueError, UnicodeError) as error:
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        fault = f"not a readable tar ({reason})"

    return ShardIndex(
        names=np.array([member.name for member in members], dtype=np.bytes_),
        extensions=np.array([member.extension for member in members], dtype=np.bytes_),
        offsets=np.array([member.offset for member in members], dtype=np.int64),
        sizes=np.array([member.size for member in members], dtype=np.int64),
        fault=fault,
        surplus=length - end,
    )


@dataclass(frozen=True, slots=True)
class _Member:
    name: bytes
    extension: bytes
    offset: int
    size: int


def _member(info: tarfile.TarInfo, length: int) -> _Member | None:
    """A member for the index; None for folders and devices, and for data beyond the file's end."""
    # rpartition: the key of `img.1.jpg` is `img.1`.
    name, dot, extension = info.name.rpartition(".")
    is_link = info.islnk() or info.issym()

    if not dot or not (info.isreg() or is_link) or info.offset_data + info.size > length:
        return None
    return _Member(
        name=_short(name),
        extension=_short(extension.lower()),
        offset=info.offset_data,
        size=info.size if info.isreg() else LINK,
    )


def _short(name: str) -> bytes:
    """A name as bytes. Of an absurdly long one the beginning remains, and a hash of it."""
    spelt = name.encode("utf-8", "surrogateescape")
    if len(spelt) <= _LONGEST_NAME:
        return spelt
    return spelt[:_KEPT_OF_A_LONG_NAME] + hashlib.sha256(spelt).hexdigest().encode()


def _ends_at(path: Path, end: int) -> bool:
    """Whether a closing block of zeros stands where the tar's last member ends.

    tarfile does not ask for it. Without it, a tar that was cut between two members would lose its
    tail unnoticed.
    """
    with path.open("rb") as file:
        file.seek(end)
        return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def _read_index(file: Path, stamp: NDArray[np.int64]) -> ShardIndex | None:
    try:
        with np.load(file, allow_pickle=False) as stored:
            if not np.array_equal(stored["stamp"], stamp):
                return None
            return ShardIndex(
                names=stored["names"],
                extensions=stored["extensions"],
                offsets=stored["offsets"],
                sizes=stored["sizes"],
                fault=str(stored["fault"]),
                surplus=int(stored["surplus"]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # missing or torn: it is built again


def _write_index(file: Path, index: ShardIndex, stamp: NDArray[np.int64]) -> bool:
    """Writes an index; False if the folder cannot be written."""
    arrays = {
        "stamp": stamp,
        "names": index.names,
        "extensions": index.extensions,
        "offsets": index.offsets,
        "sizes": index.sizes,
        "fault": np.array(index.fault),
        "surplus": np.array(index.surplus),
    }

    try:
        # As a stream: to a path without the extension .npz, numpy would add it.
        with whole(file) as aside, aside.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
    except OSError:
        return False
    return True
