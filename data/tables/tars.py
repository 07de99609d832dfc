"""Shards without a table beside them: the columns that their tars have, and what their pairs hold.

Each pair has `key`, `pair` (`shard/key`, by which other commands know it), `text` (its first one),
`width`, `height` and `image_phash`. The JSON member adds its top-level fields of one value: `uid`,
`clip_similarity`, … Which there are, a sample of the pairs says; a field of the same name as one
that would be read from the image counts before it.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from align_train.errors import UserError, shown
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import Manifest
from align_train.shards.members import Members
from align_train.shards.row import Shard
from align_train.shards.shard import ShardReader

KEY, PAIR, TEXT = "key", "pair", "text"
WIDTH, HEIGHT, PHASH = "width", "height", "image_phash"

OF_PAIR = (KEY, PAIR, TEXT)  # whatever the JSON says
OF_IMAGE = (WIDTH, HEIGHT, PHASH)

_SHARDS = 3  # that are looked into
_PAIRS = 100  # of each

_LARGEST = 2**63  # integers below fit a column


@dataclass(frozen=True, kw_only=True)
class Tars:
    """The shards of a source.

    Attributes:
        manifest: The shards that have a pair; a pair that an earlier selection left out is none.
        caption: Where the texts lie.
        members: How the members of a tar make pairs.
        cache: Fetches remote shards.
        fields: The types of the JSON's fields, as `sample` finds them.
    """

    manifest: Manifest
    caption: CaptionSource
    members: Members
    cache: ShardCache
    fields: Mapping[str, pa.DataType] = field(default_factory=dict)

    def without_shards(self) -> Tars:
        """All but the shards, for a process that gets them one by one."""
        return replace(self, manifest=replace(self.manifest, shards=()))

    def open(self, shard: Shard) -> ShardReader:
        """Opens a shard; the caller closes it.

        Raises:
            UserError: It is missing or broken, or is not the one of the manifest.
        """
        kept = shard.selection.read(self.cache) if shard.selection else None
        try:
            reader = ShardReader(
                self.cache.local(shard.url, shard.bytes),
                self.caption,
                members=self.members,
                name=stem_of(shard.name),
                pairs=shard.pairs,
                kept=kept,
            )
        except UserError:
            raise  # of the cache, or about what the tar holds
        except OSError as error:
            raise UserError(
                f"{shard.url}: cannot be read ({error.strerror or error}); bring it back, repair "
                f"it or its rights, or make the manifest anew"
            ) from None
        # Pairs are lost with the rest of the tar, and nobody knows their keys.
        if reader.index.fault:
            reader.close()
            raise UserError(f"{shard.url}: {reader.index.fault}; fetch it again or leave it out")
        return reader

    def keys(self, shard: Shard) -> NDArray[np.bytes_]:
        """The keys of a shard's pairs as the tar has them, in its order, `[pairs]`."""
        reader = self.open(shard)
        try:
            return np.array([reader.key_bytes(pair) for pair in range(len(reader))], np.bytes_)
        finally:
            reader.close()

    def sample(self) -> dict[str, pa.DataType]:
        """Finds the fields of the JSON and their types, by the first pairs of some shards."""
        shards = self.manifest.shards
        # Fetching costs more than looking.
        remote = any(self.cache.wants(shard.url) for shard in shards)
        chosen = {0} if remote else {0, len(shards) // 2, len(shards) - 1}

        values: dict[str, list[object]] = defaultdict(list)
        for index in sorted(chosen)[:_SHARDS]:
            reader = self.open(shards[index])
            try:
                for pair in range(min(_PAIRS, len(reader))):
                    for name, value in json_of(reader, pair).items():
                        values[name].append(value)
            finally:
                reader.close()
        return {name: _type_of(found) for name, found in values.items()}

    @property
    def types(self) -> dict[str, pa.DataType]:
        """The columns and their types."""
        types: dict[str, pa.DataType] = dict.fromkeys(OF_PAIR, pa.string())
        types |= {WIDTH: pa.int64(), HEIGHT: pa.int64(), PHASH: pa.string()}
        types |= {name: kind for name, kind in self.fields.items() if name not in OF_PAIR}
        return types

    def as_json(self) -> list[dict[str, object]]:
        """What says that a source is the same; not where its shards lie."""
        rows: list[dict[str, object]] = []
        for shard in self.manifest.shards:
            row: dict[str, object] = {"file": shard.name, "rows": shard.pairs, "bytes": shard.bytes}
            if shard.selection is not None:
                row["kept"] = shard.selection.hash
            rows.append(row)
        return rows


def stem_of(name: str) -> str:
    """The name of a shard without its ending: `00000` of `00000.tar`."""
    return PurePosixPath(name).stem


def json_of(reader: ShardReader, pair: int) -> Mapping[str, object]:
    """The JSON object of a pair; empty if it has none, or one that cannot be read."""
    try:
        return reader.json(pair)
    except UserError:
        raise  # about the tar, not about a member
    except ValueError:
        return {}


def _type_of(values: Sequence[object]) -> pa.DataType:
    """The type of most of a field's values, so that an odd one does not change it.

    It is of numbers, texts or booleans, or a list's, which no rule reads.
    """
    known = [value for value in values if value is not None]
    if not known:
        return pa.null()

    kind = Counter(map(_kind_of, known)).most_common(1)[0][0]
    # A single fraction makes all of them floats.
    if kind == pa.int64() and not all(_is_integer(value) for value in known if _is_number(value)):
        return pa.float64()
    return kind


def _kind_of(value: object) -> pa.DataType:
    if isinstance(value, str):
        return pa.string()
    if _is_number(value):
        return pa.int64()
    return pa.bool_() if isinstance(value, bool) else pa.list_(pa.null())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and abs(value) < _LARGEST


def files_of(tars: Tars, folder: Path) -> tuple[Path, ...]:
    """The files of the tables that are to be built, in a folder.

    Raises:
        UserError: Two shards have the same name.
    """
    shards: dict[str, str] = {}
    for shard in tars.manifest.shards:
        name = _file_name(stem_of(shard.name))
        if name in shards:
            raise UserError(
                f"source: {shown(shards[name])} and {shown(shard.url)} have the same name; shards "
                f"are known by their names: rename one, or leave it out"
            )
        shards[name] = shard.url
    return tuple(folder / name for name in shards)


def _file_name(stem: str) -> str:
    """The name of a shard's table: one that no engine hides, and that is UTF-8."""
    spelled = os.fsencode(stem).decode("utf-8", "replace")
    prefix = "shard" if spelled.startswith((".", "_")) else ""
    return f"{prefix}{spelled}.parquet"
