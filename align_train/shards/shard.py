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

import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError
from align_train.shards.caption import NO_TEXT, SECOND, CaptionSource, parse_json
from align_train.shards.tar_index import IMAGE_EXTENSIONS, LINK, load_index


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
        if (
            wanted is not None
            and len(self.pairs) < wanted
            and self.index.surplus > tarfile.RECORDSIZE
        ):
            # A download into a file of the full length that was cut: zeros, which look like the end of a tar.
            self.index = replace(
                self.index, fault=f"the tar ends {self.index.surplus} bytes before its file does"
            )
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
        return np.flatnonzero(
            self.index.names[self.pairs[:, 0]] == key.encode("utf-8", "surrogateescape")
        ).tolist()

    def read(self, pair: int) -> tuple[bytes, bytes]:
        """The bytes of the picture and of the text member; ValueError with the reason where one is not there."""
        text = self.text(pair)
        return self.picture(pair), text

    def text(self, pair: int) -> bytes:
        """The bytes of the text member alone; ValueError with the reason where the pair has none, or is bad otherwise."""
        if pair >= len(self.pairs):
            raise ValueError(self.index.fault)
        text = int(self.pairs[pair, 1])
        if text == NO_TEXT:
            raise ValueError(f"no member .{self.caption.extension}")
        if text == SECOND:
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
        loaded = parse_json(self._member(number)) if number is not None else {}
        return loaded if isinstance(loaded, dict) else {}

    def _member(self, number: int) -> bytes:
        size, offset = int(self.index.sizes[number]), int(self.index.offsets[number])
        if size == LINK:
            raise ValueError(
                f"the member .{self.index.extensions[number].decode('utf-8', 'replace')} is a link, not a file"
            )
        data = os.pread(self.descriptor, size, offset)
        if len(data) != size:
            raise UserError(
                f"{self.path}: {size} bytes expected at {offset}, {len(data)} read; the shard changed under the run"
            )
        return data

    def close(self) -> None:
        os.close(self.descriptor)
