from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align_train.shards.caption import NO_TEXT, SECOND, CaptionSource

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


_INDEX_VERSION = 3


_LONGEST_NAME = 1024  # bytes: all names of an index are as wide as its widest


@dataclass(frozen=True)
class ShardIndex:
    """Where every member of a tar lies: parallel arrays, one element per member, in the tar's order.

    names: the pairs' keys, without extension, as UTF-8 bytes; extensions: lower case, as bytes; offsets, sizes: bytes (a
    size of -1: the member is a link). fault: why the tar could not be read to its end; the members before that are listed.
    surplus: bytes after the end of the tar.
    """

    names: NDArray[np.bytes_]
    extensions: NDArray[np.bytes_]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    fault: str = ""
    surplus: int = 0

    def pairs(self, caption: CaptionSource) -> NDArray[np.int64]:
        """Member numbers `[pairs, 2]` (picture, text) in the tar's order; below 0 in place of the text: `why_bad` tells."""
        pictures: list[tuple[bytes, int]] = []
        text_of: dict[bytes, int] = {}
        wanted = caption.extension.encode()
        known = {extension.encode() for extension in IMAGE_EXTENSIONS}
        for number, (name, extension) in enumerate(
            zip(self.names.tolist(), self.extensions.tolist(), strict=True)
        ):
            if extension in known:
                pictures.append((name, number))
            elif extension == wanted:
                text_of.setdefault(name, number)
        first = dict(reversed(pictures))
        found = [
            (number, text_of.get(name, NO_TEXT) if first[name] == number else SECOND)
            for name, number in pictures
        ]
        return np.asarray(found, dtype=np.int64).reshape(-1, 2)


def build_index(path: Path) -> ShardIndex:
    """Reads the headers of a tar; no member is unpacked. OSError where the file itself cannot be read."""
    members: list[tuple[bytes, bytes, int, int]] = []
    length = path.stat().st_size
    fault, end = "", 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name, dot, extension = member.name.rpartition(".")
                if (
                    dot
                    and (member.isreg() or member.islnk() or member.issym())
                    and member.offset_data + member.size <= length
                ):
                    spelt = (_short(name), _short(extension.lower()))
                    members.append(
                        (*spelt, member.offset_data, member.size if member.isreg() else LINK)
                    )
            end = tar.offset
        if not _ends_at(path, end):
            fault = "the tar is cut short"
        elif not members:
            fault = "the tar holds no members"
    except (tarfile.TarError, EOFError, ValueError, UnicodeError) as error:
        fault = f"not a readable tar ({' '.join(str(error).split())[:80]})"
    names, extensions, offsets, sizes = zip(*members, strict=True) if members else ((), (), (), ())
    return ShardIndex(
        np.array(names, dtype=np.bytes_),
        np.array(extensions, dtype=np.bytes_),
        np.array(offsets, dtype=np.int64),
        np.array(sizes, dtype=np.int64),
        fault,
        length - end,
    )


def _short(name: str) -> bytes:
    """A name as bytes; a hash stands for the rest of one that is absurdly long."""
    spelt = name.encode("utf-8", "surrogateescape")
    return (
        spelt
        if len(spelt) <= _LONGEST_NAME
        else spelt[:64] + hashlib.sha256(spelt).hexdigest().encode()
    )


def _ends_at(path: Path, end: int) -> bool:
    """Whether a tar's closing block of zeros stands where its last member ends. tarfile does not miss it; we do: without
    it, a tar that was cut between two members would lose its tail without a word."""
    with path.open("rb") as file:
        file.seek(end)
        return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def load_index(path: Path) -> ShardIndex:
    """The index of a tar, from the file kept beside it, or built and kept there. OSError: the file cannot be read."""
    stat = path.stat()
    stamp = np.array([_INDEX_VERSION, stat.st_size, stat.st_mtime_ns], dtype=np.int64)
    places = (
        path.with_name(f".{path.name}.index.npz"),
        _cache_folder() / f"{_digest(path)}.index.npz",
    )
    for place in places:
        index = _read_index(place, stamp)
        if index is not None:
            return index
    index = build_index(path)
    arrays: dict[str, Any] = dict(
        vars(index), stamp=stamp, fault=np.array(index.fault), surplus=np.array(index.surplus)
    )
    for place in places:
        if _write_aside(place, arrays):
            break
    return index


def _read_index(place: Path, stamp: NDArray[np.int64]) -> ShardIndex | None:
    try:
        with np.load(place, allow_pickle=False) as stored:
            if not np.array_equal(stored["stamp"], stamp):
                return None
            names, extensions, offsets, sizes = (
                stored[name] for name in ("names", "extensions", "offsets", "sizes")
            )
            return ShardIndex(
                names, extensions, offsets, sizes, str(stored["fault"]), int(stored["surplus"])
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # missing, torn or from another version: built again


def _write_aside(place: Path, arrays: dict[str, Any]) -> bool:
    """Writes whole or not at all; False where the folder cannot be written (the caller tries the next place)."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, suffix=".npz", delete=False) as file:
            np.savez(file, **arrays)
        os.replace(file.name, place)
    except OSError:
        return False
    return True


def _cache_folder() -> Path:
    return (
        Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "align_train" / "indices"
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]


LINK = -1  # in place of a member's size
