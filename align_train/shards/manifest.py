"""The list of shards with their counts, as a small file: one JSON object per line, `{"shard", "pairs", "bytes"}`.

Shards are named relative to the manifest, so that a data set can be moved as a folder, or by URL. A row may also carry a
*selection*, so that filtering never rewrites tars: `"of"` (pairs in the tar), `"at"` (a place in `NAME.selection` beside the
manifest, where one bit for each pair, in the order of their sorted keys, says whether it is kept) and `"kept"` (a hash of
these bits); `pairs` are then the kept ones. The identity of the data is a hash of names, counts and selections, not of where
they lie: a run resumes on another machine. `resolve` takes what `data.shards` takes.

Price (`benchmarks/memory.py`): 75,000 rows with selections open in a third of a second and 40 MB; bits are read with the shard.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.remote import is_url

MANIFEST_NAME = "manifest.jsonl"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which pairs of a tar are kept. file: path or URL of the bits, which begin at byte `at`; of: pairs in the tar."""

    file: str
    at: int
    of: int
    hash: str

    def read(self, stage: ShardCache) -> NDArray[np.bool_]:
        data = self._bits(stage)
        if _short_hash(data) != self.hash and stage.wants(self.file):
            stage.forget(self.file)  # a copy from before the file was made anew
            data = self._bits(stage)
        if _short_hash(data) != self.hash:
            raise UserError(
                f"{self.file}: the bits at {self.at} are not those that the manifest was made with; make it anew"
            )
        return np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=self.of).astype(bool)

    def _bits(self, stage: ShardCache) -> bytes:
        try:
            with stage.local(self.file).open("rb") as file:
                file.seek(self.at)
                return file.read(-(-self.of // 8))
        except OSError as error:
            raise UserError(
                f"{self.file}: cannot be read ({error.strerror or error}); it belongs beside its manifest"
            ) from None


@dataclass(frozen=True, slots=True)
class Shard:
    """One row of a manifest. url: the tar's path or URL; pairs: how many pairs it gives; bytes: its size."""

    url: str
    pairs: int
    bytes: int
    selection: Selection | None = None

    @property
    def name(self) -> str:
        """The tar's file name: what it is known by, wherever it lies."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Manifest:
    """The shards of one data set, in a fixed order, which the order of training is a function of.

    sources: how many of the shards belong to each source that is mixed with others; None: all are one source's.
    """

    shards: tuple[Shard, ...]
    source: str
    sources: tuple[int, ...] | None = None

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Pairs of each shard."""
        return np.array([shard.pairs for shard in self.shards], dtype=np.int64)

    @property
    def pairs(self) -> int:
        return int(self.counts.sum())

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    @cached_property
    def identity(self) -> str:
        """A hash of the shards' names, counts and selections: the same wherever they lie."""
        rows = (
            f"{shard.name}\t{shard.pairs}"
            + (f"\t{shard.selection.hash}" if shard.selection else "")
            for shard in self.shards
        )
        whole = "\n".join(rows) + "".join(f"\n\n{count}" for count in self.sources or ())
        return hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def write(self, path: Path, *, kept: Iterable[NDArray[np.bool_]] | None = None) -> None:
        """Writes the file whole. kept: for each shard which of its pairs are kept, in the order of their sorted keys."""
        rows, bits, at = [], [], 0
        for shard, keep in zip(
            self.shards, kept if kept is not None else [None] * len(self.shards), strict=True
        ):
            place = shard.url if is_url(shard.url) else os.path.relpath(shard.url, path.parent)
            row: dict[str, Any] = {"shard": place, "pairs": shard.pairs, "bytes": shard.bytes}
            if keep is not None:
                if shard.selection or len(keep) != shard.pairs:
                    raise ValueError(
                        f"{shard.url}: {len(keep)} choices for {shard.pairs} pairs, or chosen from before"
                    )
                bits.append(np.packbits(keep).tobytes())
                row.update(pairs=int(keep.sum()), of=len(keep), at=at, kept=_short_hash(bits[-1]))
                at += len(bits[-1])
            elif shard.selection:
                raise ValueError(f"{shard.url}: a selection is written where it is made")
            rows.append(row)
        if bits:
            _write_whole(path.with_name(_selection_name(path.name)), b"".join(bits))
        _write_whole(path, "".join(f"{json.dumps(row)}\n" for row in rows).encode())


def place_in(ends: NDArray[np.int64], number: int) -> tuple[int, int]:
    """The shard of the pair `number` among all, and its number there. ends: the running sum of the shards' counts."""
    shard = int(np.searchsorted(ends, number, side="right"))
    return shard, number - (int(ends[shard - 1]) if shard else 0)


def _selection_name(manifest: str) -> str:
    return f"{manifest.removesuffix('.jsonl')}.selection"


def _short_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _write_whole(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(data)
    os.replace(aside, path)


def read_manifest(place: str, *, stage: ShardCache) -> Manifest:
    """Reads a manifest file at a path or URL; UserError names the line that is no row."""
    folder = place.rpartition("/")[0] or "."
    bits = f"{folder}/{_selection_name(place.rpartition('/')[2])}"
    shards = []
    try:
        lines = stage.read(place).decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(
            f"{place}: no manifest (not even text); expected {MANIFEST_NAME}, a folder or tars"
        ) from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            selection = (
                Selection(bits, int(row["at"]), int(row["of"]), str(row["kept"]))
                if "kept" in row
                else None
            )
            name = row["shard"]
            url = (
                name
                if is_url(name) or name.startswith("/")
                else os.path.normpath(f"{folder}/{name}")
            )
            url = f"{folder}/{name}" if is_url(folder) and not is_url(name) else url
            shards.append(Shard(url, int(row["pairs"]), int(row["bytes"]), selection))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{place}, line {number}: expected {{shard, pairs, bytes}}, found {line[:80]!r}"
            ) from None
        if shards[-1].pairs < 0 or shards[-1].bytes < 0:
            raise UserError(
                f"{place}, line {number}: expected counts of 0 or more, found {line[:80]!r}"
            )
    return checked(Manifest(tuple(shards), place))


def checked(manifest: Manifest) -> Manifest:
    if manifest.pairs == 0:
        raise UserError(f"{manifest.source}: the manifest lists no pairs; {HOW_TO_PREPARE}")
    return manifest


HOW_TO_PREPARE = "make shards with `python -m data.pack`, or see data/README.md"
