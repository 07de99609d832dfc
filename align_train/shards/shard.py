"""Random access to the pairs of one WebDataset tar.

A pair is an image and its siblings of the same key: `dir/000123.jpg`, `dir/000123.txt`,
`dir/000123.json`; `members.py` says which they are. Pairs are counted from 0 in the order of their
images in the tar. Bad ones count too: without a text, with a key that came before, with a link in
place of a file. Reading a bad one says why, and any count of images gives the same number. Other
members (pickles, arrays) are never opened.

Reading is `pread` through the tar's index (`tar_index.py`). A truncated file is an error, never a
SIGBUS, and forked workers share the descriptor without sharing a position.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError
from align_train.shards.caption import NO_TEXT, SECOND, CaptionSource, parse_json
from align_train.shards.key_rule import member_table
from align_train.shards.members import ANY, Members, MemberTable, split
from align_train.shards.tar_index import ODD_TYPES, load_index


class HasTexts(ABC):
    """Pairs with texts in one place or several.

    Attributes:
        caption: Where texts lie.
    """

    caption: CaptionSource

    @abstractmethod
    def text(self, pair: int, place: int = 0) -> bytes:
        """Reads a text member alone; ValueError if there is none."""

    def texts(self, pair: int) -> list[list[str]]:
        """Reads the texts of a pair.

        Args:
            pair: Its index.

        Returns:
            Those of each place of the caption; empty where there are none, but not everywhere.

        Raises:
            ValueError: The pair is bad; says why.
            UserError: The file changed since it was opened.
        """
        texts: list[list[str]] = []
        reasons: list[str] = []
        for place in range(len(self.caption.places)):
            try:
                texts.append(self.caption.read(self.text(pair, place), place))
            except UserError:
                raise  # about the tar, not about a text
            except ValueError as error:
                texts.append([])
                reasons.append(str(error))

        if not any(texts):
            raise ValueError("; ".join(dict.fromkeys(reasons)))
        return texts

    def all_texts(self, pair: int) -> list[str]:
        """Reads the texts of a pair in all places, each once if there are several places.

        Args:
            pair: Its index.

        Raises:
            ValueError: The pair is bad; says why.
            UserError: The file changed since it was opened.
        """
        texts = self.texts(pair)
        if len(texts) == 1:
            return texts[0]
        return list(dict.fromkeys(chain.from_iterable(texts)))


class ShardReader(HasTexts):
    """One open tar: from the index of a pair to the bytes of its members.

    A broken tar has as many pairs as the manifest says. Those that cannot be read say why.
    """

    def __init__(
        self,
        path: Path,
        caption: CaptionSource,
        *,
        members: Members = ANY,
        name: str | None = None,
        pairs: int | None = None,
        kept: NDArray[np.bool_] | None = None,
    ) -> None:
        """Opens a tar.

        Args:
            path: The tar.
            caption: Where the texts lie.
            members: How members make pairs.
            name: The beginning of the pairs' keys; None: the file's name without its extension.
            pairs: How many pairs the manifest says it gives; None: as many as there are.
            kept: Which pairs belong to the data, in the order of the pairs' *sorted keys*,
                `[pairs in the tar]`; None: all.

        Raises:
            OSError: The tar cannot be read.
            UserError: It does not hold as many pairs as the manifest says, or the rule of keys
                loses pairs.
        """
        self.path = path
        self.caption = caption
        self.members = members
        self.name = name or path.stem
        self.index = load_index(path)
        # Not kept: a key and an extension of each member are more than the index itself.
        table = member_table(self.index, members, caption, tar=str(path))
        self.pairs = table.pairs(caption)

        if kept is not None:
            self._keep(kept)

        self._length = len(self.pairs) if pairs is None else pairs
        # A broken tar holds fewer pairs; each of them says why when it is read.
        if len(self.pairs) != self._length and not self.index.fault:
            raise UserError(
                f"{path}: the manifest says {pairs} pairs, the shard holds {len(self.pairs)}; "
                f"make the manifest anew with `align-train manifest`, and the image and keys of "
                f"data.image and data.keys"
            )

        self._json_of: dict[bytes, int] | None = None
        # O_CLOEXEC: a process that the run starts would keep an evicted shard on the disk.
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        if len(kept) == len(self.pairs):
            # By sorted key: the tables of a filter do not know the order in the tar.
            keys = np.array([self._key(pair) for pair in range(len(kept))], dtype=np.bytes_)
            by_key = np.argsort(keys, kind="stable")
            chosen = np.zeros(len(self.pairs), dtype=bool)
            chosen[by_key] = kept
            self.pairs = self.pairs[chosen]
        elif self.index.fault:
            # Some keys are lost, so nobody knows which bit belongs to which of the others.
            self.pairs = self.pairs[:0]
        else:
            raise UserError(
                f"{self.path}: the selection was made for {len(kept)} pairs, the shard holds "
                f"{len(self.pairs)}; make the manifest anew"
            )

    def __len__(self) -> int:
        return self._length

    def key(self, pair: int) -> str:
        """The key `shard/key` of a pair: unique in a data set whose shards have different names."""
        if pair >= len(self.pairs):
            return f"{self.name}/#{pair}"  # its name is lost with the rest of the tar
        return f"{self.name}/{self._key(pair).decode('utf-8', 'replace')}"

    def key_bytes(self, pair: int) -> bytes:
        """The key of a pair as the tar has it; empty if it is lost with the rest of the tar."""
        return self._key(pair) if pair < len(self.pairs) else b""

    def _key(self, pair: int) -> bytes:
        return split(self.index.names[self.pairs[pair, 0]], self.members.keys)[0]

    def find(self, key: str) -> list[int]:
        """The indices of the pairs with a key, which is given without the shard's name."""
        # The name of a member need not be UTF-8.
        wanted = key.encode("utf-8", "surrogateescape")
        return [pair for pair in range(len(self.pairs)) if self._key(pair) == wanted]

    def by_key(self) -> NDArray[np.int64]:
        """The pairs in the order of their sorted keys, `[pairs]`. Price: 5 ms for 10,000 pairs."""
        if len(self.pairs) < len(self):
            return np.arange(len(self))  # their names are lost, and all of them are bad
        keys = np.array([self._key(pair) for pair in range(len(self))], dtype=np.bytes_)
        return np.argsort(keys, kind="stable")

    def read(self, pair: int) -> tuple[bytes, bytes]:
        """Reads a pair as it lies there.

        Args:
            pair: Its index.

        Returns:
            The bytes of the image and of the text member, that of the first place of texts.

        Raises:
            ValueError: The pair is bad; says why.
            UserError: The file changed since it was opened.
        """
        text = self.text(pair)
        return self.image(pair), text

    def text(self, pair: int, place: int = 0) -> bytes:
        """Reads a text member alone.

        Args:
            pair: The pair's index.
            place: Index of the place of texts.

        Returns:
            The member's bytes.

        Raises:
            ValueError: The pair is bad; says why.
            UserError: The file changed since it was opened.
        """
        if pair >= len(self.pairs):
            raise ValueError(self.index.fault)

        member = int(self.pairs[pair, 1 + place])
        if member == NO_TEXT:
            raise ValueError(f"no member .{self.caption.places[place].extension}")
        if member == SECOND:
            raise ValueError("a second image under the same key")
        return self._read_member(member)

    def image(self, pair: int) -> bytes:
        """Reads the image alone, even if the pair is bad for another reason.

        Args:
            pair: The pair's index.

        Returns:
            The bytes of the image's file.

        Raises:
            ValueError: The image is not there; says why.
            UserError: The file changed since it was opened.
        """
        if pair >= len(self.pairs):
            raise ValueError(self.index.fault)
        return self._read_member(int(self.pairs[pair, 0]))

    def json(self, pair: int) -> dict[str, object]:
        """Reads the pair's JSON member, wherever the caption lies.

        Args:
            pair: The pair's index.

        Returns:
            The object; empty if the pair has no JSON member, or one that is no object.

        Raises:
            ValueError: The member is no JSON.
            UserError: The file changed since it was opened.
        """
        # Made when it is first needed: training never asks for it.
        if self._json_of is None:
            table = self._table()
            members = table.with_extension(b"json")
            self._json_of = {table.keys[member]: member for member in members}

        json_member = self._json_of.get(self._key(pair))
        if json_member is None:
            return {}
        record = parse_json(self._read_member(json_member))
        return record if isinstance(record, dict) else {}

    def texts_without_image(self) -> list[str]:
        """The keys that have a text, but no image."""
        bare = self._table().texts_without_image(self.caption)
        return [key.decode("utf-8", "replace") for key in bare]

    def _table(self) -> MemberTable:
        return MemberTable(self.index, self.members)

    def close(self) -> None:
        """Closes the file."""
        os.close(self.descriptor)

    def _read_member(self, member: int) -> bytes:
        size = int(self.index.sizes[member])
        offset = int(self.index.offsets[member])
        if size in ODD_TYPES:
            _, extension = split(self.index.names[member], self.members.keys)
            spelled = extension.decode("utf-8", "replace")
            raise ValueError(f"the member .{spelled} is {ODD_TYPES[size]}, not a file")

        data = os.pread(self.descriptor, size, offset)
        # The index was checked when the shard was opened, so the file is shorter since then.
        if len(data) != size:
            raise UserError(
                f"{self.path}: {size} bytes expected at {offset}, {len(data)} read; "
                f"the shard changed under the run"
            )
        return data
