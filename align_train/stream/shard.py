"""Random access to the pairs of one WebDataset tar, through an index built by one pass over the tar's headers.

A pair is a picture and what else has its name up to the last dot: `dir/000123.jpg`, `dir/000123.txt`, `dir/000123.json`.
(The webdataset library cuts at the *first* dot, so `img.1.jpg` loses its name; names without such dots read alike.) Pairs are
numbered in the order of their pictures in the tar, the broken ones among them (without a text, under a name that came before,
a link instead of a file): reading one says why, and the count is the same for whoever counts pictures. Other members
(pickles, arrays) are never looked into.

The index is an `.npz` of plain arrays beside the tar, or in a cache folder where the tar's is read-only; it is checked against
the tar's size and time, written aside and renamed. Reading is `pread`: a truncated file is an error, never a SIGBUS, and
forked workers share the descriptor without sharing a position.

Price: building reads 512 bytes per member; an open index costs about 40 bytes per member.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
_INDEX_VERSION = 3
_LONGEST_NAME = 1024  # bytes: all names of an index are as wide as its widest
_LONGEST_TEXT = 8192  # characters, more than a tower reads: a book as an alt-text must not cost seconds
_NO_TEXT, _SECOND = -1, -2  # in place of the number of a pair's text member
_LINK = -1  # in place of a member's size


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

    def values(self, member: bytes) -> list[Any]:
        """What a pair has there, of whatever kind; ValueError where that cannot be read."""
        if self.field is None:
            return [member.decode("utf-8")]
        record = _parse_json(member)
        value = record.get(self.field) if isinstance(record, dict) else None
        return value if isinstance(value, list) else [value]

    def read(self, member: bytes) -> list[str]:
        """The texts of a pair; raises ValueError with the reason where there is none."""
        texts = [text[:_LONGEST_TEXT].strip() for text in self.values(member) if isinstance(text, str) and is_unicode(text)]
        texts = [text for text in texts if text]
        if not texts:
            raise ValueError(f"no text in {self}")
        return texts


def _parse_json(member: bytes) -> Any:
    try:
        return json.loads(member)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def is_unicode(text: str) -> bool:
    """JSON may spell half of a surrogate pair, which no encoder takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


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
        for number, (name, extension) in enumerate(zip(self.names.tolist(), self.extensions.tolist(), strict=True)):
            if extension in known:
                pictures.append((name, number))
            elif extension == wanted:
                text_of.setdefault(name, number)
        first = dict(reversed(pictures))
        found = [(number, text_of.get(name, _NO_TEXT) if first[name] == number else _SECOND) for name, number in pictures]
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
                if dot and (member.isreg() or member.islnk() or member.issym()) and member.offset_data + member.size <= length:
                    spelt = (_short(name), _short(extension.lower()))
                    members.append((*spelt, member.offset_data, member.size if member.isreg() else _LINK))
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
    return spelt if len(spelt) <= _LONGEST_NAME else spelt[:64] + hashlib.sha256(spelt).hexdigest().encode()


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
    places = (path.with_name(f".{path.name}.index.npz"), _cache_folder() / f"{_digest(path)}.index.npz")
    for place in places:
        index = _read_index(place, stamp)
        if index is not None:
            return index
    index = build_index(path)
    arrays: dict[str, Any] = dict(vars(index), stamp=stamp, fault=np.array(index.fault), surplus=np.array(index.surplus))
    for place in places:
        if _write_aside(place, arrays):
            break
    return index


def _read_index(place: Path, stamp: NDArray[np.int64]) -> ShardIndex | None:
    try:
        with np.load(place, allow_pickle=False) as stored:
            if not np.array_equal(stored["stamp"], stamp):
                return None
            names, extensions, offsets, sizes = (stored[name] for name in ("names", "extensions", "offsets", "sizes"))
            return ShardIndex(names, extensions, offsets, sizes, str(stored["fault"]), int(stored["surplus"]))
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
    """One open tar: pair number -> the bytes of its members.

    name: what the pairs' keys begin with; None: the file's. pairs: how many the manifest says it holds; None: what is found.
    kept: which pairs belong to the data, as booleans in the order of the pairs' *sorted keys*; None: all.
    A tar that is broken has the number of pairs that the manifest says: those that cannot be read say why.
    """

    def __init__(
        self,
        path: Path,
        caption: CaptionSource,
        *,
        name: str | None = None,
        pairs: int | None = None,
        kept: NDArray[np.bool_] | None = None,
    ) -> None:
        self.path, self.caption = path, caption
        self.name = name or path.stem
        self.index = load_index(path)
        self.pairs = self.index.pairs(caption)
        wanted = pairs if kept is None else len(kept)
        if wanted is not None and len(self.pairs) < wanted and self.index.surplus > tarfile.RECORDSIZE:
            # A download into a file of the full length that was cut: zeros, which look like the end of a tar.
            self.index = replace(self.index, fault=f"the tar ends {self.index.surplus} bytes before its file does")
        self._choose(kept)
        self._length = len(self.pairs) if pairs is None else pairs
        if len(self.pairs) != self._length and not self.index.fault:
            raise UserError(
                f"{path}: the manifest says {pairs} pairs, the shard holds {len(self.pairs)}; make the manifest anew with "
                f"`python -m data.manifest`"
            )
        self._json_of: dict[bytes, int] | None = None
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _choose(self, kept: NDArray[np.bool_] | None) -> None:
        if kept is None:
            return
        if len(kept) == len(self.pairs):
            by_key = np.argsort(self.index.names[self.pairs[:, 0]], kind="stable")
            chosen = np.zeros(len(self.pairs), dtype=bool)
            chosen[by_key] = kept
            self.pairs = self.pairs[chosen]
        elif self.index.fault:
            self.pairs = self.pairs[:0]  # who is who cannot be told without all keys
        else:
            raise UserError(
                f"{self.path}: the selection was made for {len(kept)} pairs, the shard holds {len(self.pairs)}; "
                f"make the manifest anew"
            )

    def __len__(self) -> int:
        return self._length

    def key(self, pair: int) -> str:
        """`shard/key`, unique within a data set whose shards have different names."""
        if pair >= len(self.pairs):
            return f"{self.name}/#{pair}"  # its name went down with the tar
        name: bytes = self.index.names[self.pairs[pair, 0]]
        return f"{self.name}/{name.decode('utf-8', 'replace')}"

    def find(self, key: str) -> list[int]:
        """The numbers of the pairs with that key (without the shard's name)."""
        return np.flatnonzero(self.index.names[self.pairs[:, 0]] == key.encode("utf-8", "surrogateescape")).tolist()

    def read(self, pair: int) -> tuple[bytes, bytes]:
        """The bytes of the picture and of the text member; ValueError with the reason where one is not there."""
        text = self.text(pair)
        return self.picture(pair), text

    def text(self, pair: int) -> bytes:
        """The bytes of the text member alone; ValueError with the reason where the pair has none, or is bad otherwise."""
        if pair >= len(self.pairs):
            raise ValueError(self.index.fault)
        text = int(self.pairs[pair, 1])
        if text == _NO_TEXT:
            raise ValueError(f"no member .{self.caption.extension}")
        if text == _SECOND:
            raise ValueError("a second picture under the same key")
        return self._member(text)

    def picture(self, pair: int) -> bytes:
        """The bytes of the picture alone, whether or not the pair is good; ValueError where it cannot be read."""
        if pair >= len(self.pairs):
            raise ValueError(self.index.fault)
        return self._member(int(self.pairs[pair, 0]))

    def texts_without_picture(self) -> list[str]:
        """Keys that have a text, but no picture."""
        extension = self.caption.extension.encode()
        known = [name.encode() for name in IMAGE_EXTENSIONS]
        names = self.index.names[self.index.extensions == extension]
        bare = np.setdiff1d(names, self.index.names[np.isin(self.index.extensions, known)])
        return [name.decode("utf-8", "replace") for name in bare.tolist()]

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
        if size == _LINK:
            raise ValueError(f"the member .{self.index.extensions[number].decode('utf-8', 'replace')} is a link, not a file")
        data = os.pread(self.descriptor, size, offset)
        if len(data) != size:
            raise UserError(
                f"{self.path}: {size} bytes expected at {offset}, {len(data)} read; the shard changed under the run"
            )
        return data

    def close(self) -> None:
        os.close(self.descriptor)
