"""Random access to the pairs of one WebDataset tar, through an index built by one pass over the tar's headers.

A pair is every member with the same name up to its last dot: `dir/000123.jpg`, `dir/000123.txt`, `dir/000123.json`. (The
webdataset library cuts at the *first* dot, so `img.1.jpg` loses its name; names without such dots read alike.) The index is
an `.npz` of plain arrays beside the tar, or in a cache folder where the tar's is read-only; it is checked against the tar's
size and time, written aside and renamed. Reading is `pread`: a truncated file is an error, never a SIGBUS, and forked
workers share the descriptor without sharing a position.

Price: building reads 512 bytes per member; an open index costs about 40 bytes per member.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
_INDEX_VERSION = 1


@dataclass(frozen=True)
class CaptionSource:
    """Where the text of a pair lies: a text member (`txt`), or a field of a JSON member (`json:caption`).

    A field may hold one text or a list of texts, of which each visit draws one.
    """

    extension: str
    field: str | None

    def __str__(self) -> str:
        return f"{self.extension}:{self.field}" if self.field else self.extension

    @classmethod
    def parse(cls, text: str) -> CaptionSource:
        extension, _, field = text.partition(":")
        if not extension or (extension == "json") != bool(field):
            raise UserError(f"data.caption={text!r}: expected a text member such as 'txt', or 'json:FIELD'")
        return cls(extension, field or None)

    def read(self, member: bytes) -> list[str]:
        """The texts of a pair; raises ValueError with the reason where there is none."""
        if self.field is None:
            texts: list[Any] = [member.decode("utf-8")]
        else:
            record = _parse_json(member)
            value = record.get(self.field) if isinstance(record, dict) else None
            texts = value if isinstance(value, list) else [value]
        texts = [text.strip() for text in texts if isinstance(text, str) and text.strip() and _is_unicode(text)]
        if not texts:
            raise ValueError(f"no text in {self}")
        return texts


def _parse_json(member: bytes) -> Any:
    try:
        return json.loads(member)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def _is_unicode(text: str) -> bool:
    """JSON may spell half of a surrogate pair, which no encoder takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class ShardIndex:
    """Where every member of a tar lies: parallel arrays, one element per member, in the tar's order.

    names: the pairs' keys, without extension, as UTF-8 bytes; extensions: lower case, as bytes; offsets, sizes: bytes.
    """

    names: NDArray[np.bytes_]
    extensions: NDArray[np.bytes_]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def pairs(self, caption: CaptionSource) -> NDArray[np.int64]:
        """Member numbers `[pairs, 2]` (picture, text) of the keys that have both, in the tar's order."""
        picture_of: dict[bytes, int] = {}
        text_of: dict[bytes, int] = {}
        wanted = caption.extension.encode()
        pictures = {extension.encode() for extension in IMAGE_EXTENSIONS}
        for number, (name, extension) in enumerate(zip(self.names.tolist(), self.extensions.tolist(), strict=True)):
            if extension in pictures:
                picture_of.setdefault(name, number)
            elif extension == wanted:
                text_of.setdefault(name, number)
        found = [(number, text_of[name]) for name, number in picture_of.items() if name in text_of]
        return np.asarray(found, dtype=np.int64).reshape(-1, 2)


def build_index(path: Path) -> ShardIndex:
    """Reads the headers of a tar. A tar that is cut short or is none at all raises UserError; no member is unpacked."""
    names, extensions, offsets, sizes = [], [], [], []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name, dot, extension = member.name.rpartition(".")
                if not member.isreg() or not dot:
                    continue
                names.append(name.encode("utf-8", "surrogateescape"))
                extensions.append(extension.lower().encode("utf-8", "surrogateescape"))
                offsets.append(member.offset_data)
                sizes.append(member.size)
            end = tar.offset
    except FileNotFoundError:
        raise UserError(f"{path}: no such shard; check data.shards, or rebuild the manifest") from None
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{path}: not a readable tar ({error}); fetch it again or leave it out of data.shards") from None
    if not _ends_at(path, end):
        raise UserError(f"{path}: the tar is cut short; fetch it again or leave it out of data.shards")
    if not names:
        raise UserError(f"{path}: the tar holds no members; fetch it again or leave it out of data.shards")
    return ShardIndex(np.array(names), np.array(extensions), np.array(offsets), np.array(sizes))


def _ends_at(path: Path, end: int) -> bool:
    """Whether a tar's closing block of zeros stands where its last member ends. tarfile does not miss it; we do: without
    it, a tar that was cut between two members would lose its tail without a word."""
    with path.open("rb") as file:
        file.seek(end)
        return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def load_index(path: Path) -> ShardIndex:
    """The index of a tar, from the file kept beside it, or built and kept there."""
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check data.shards, or rebuild the manifest") from None
    stamp = np.array([_INDEX_VERSION, stat.st_size, stat.st_mtime_ns], dtype=np.int64)
    places = (path.with_name(f".{path.name}.index.npz"), _cache_folder() / f"{_digest(path)}.index.npz")
    for place in places:
        index = _read_index(place, stamp)
        if index is not None:
            return index
    index = build_index(path)
    arrays: dict[str, Any] = dict(vars(index), stamp=stamp)
    for place in places:
        if _write_aside(place, arrays):
            break
    return index


def _read_index(place: Path, stamp: NDArray[np.int64]) -> ShardIndex | None:
    try:
        with np.load(place, allow_pickle=False) as stored:
            if not np.array_equal(stored["stamp"], stamp):
                return None
            return ShardIndex(*(stored[name] for name in ("names", "extensions", "offsets", "sizes")))
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
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "align_train" / "indices"


def _digest(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]


class ShardReader:
    """One open tar: pair number -> the bytes of its members."""

    def __init__(self, path: Path, caption: CaptionSource) -> None:
        self.path = path
        self.index = load_index(path)
        self.pairs = self.index.pairs(caption)
        self._json_of: dict[bytes, int] | None = None
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __len__(self) -> int:
        return len(self.pairs)

    def key(self, pair: int) -> str:
        """`shard/key`, unique within a data set whose shards have different names."""
        name: bytes = self.index.names[self.pairs[pair, 0]]
        return f"{self.path.stem}/{name.decode('utf-8', 'replace')}"

    def read(self, pair: int) -> tuple[bytes, bytes]:
        """The bytes of the picture and of the text member."""
        picture, text = self.pairs[pair]
        return self._member(int(picture)), self._member(int(text))

    def json(self, pair: int) -> dict[str, Any]:
        """The pair's JSON member, whatever the caption's source; empty where there is none."""
        if self._json_of is None:
            numbers = np.flatnonzero(self.index.extensions == b"json")
            self._json_of = {self.index.names[number]: int(number) for number in numbers}
        number = self._json_of.get(self.index.names[self.pairs[pair, 0]])
        loaded = _parse_json(self._member(number)) if number is not None else {}
        return loaded if isinstance(loaded, dict) else {}

    def _member(self, number: int) -> bytes:
        size, offset = int(self.index.sizes[number]), int(self.index.offsets[number])
        data = os.pread(self.descriptor, size, offset)
        if len(data) != size:
            raise UserError(
                f"{self.path}: {size} bytes expected at {offset}, {len(data)} read; the shard changed under the run"
            )
        return data

    def close(self) -> None:
        os.close(self.descriptor)
