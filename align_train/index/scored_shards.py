"""Joins scores to the shards of a source: these by name and size, their pairs by key.

Two data sets may both have a `00000.tar`, with the same keys. A shard of the same name and another
size is another shard, or was made anew: its scores are of other pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from align_train.errors import UserError, shown
from align_train.index.looked_up import Floats, Keys, looked_up
from align_train.index.scores import Scores
from align_train.shards.manifest import Manifest


class NamedShard(NamedTuple):
    """A shard as scores know it.

    Attributes:
        name: The tar's file name.
        bytes: Its size.
    """

    name: str
    bytes: int


def named_shards(manifest: Manifest) -> list[NamedShard]:
    """The shards of a manifest, as scores know them."""
    return [NamedShard(shard.name, shard.bytes) for shard in manifest.shards]


def scored_places(scores: Scores, shards: Sequence[NamedShard]) -> list[int | None]:
    """Where each shard is among those that were scored.

    Args:
        scores: The folder of scores.
        shards: Those of the source, in any order.

    Returns:
        For each shard its index in the folder; None if it was not scored.

    Raises:
        UserError: A shard changed since it was scored, or two of the source have one name.
    """
    scored = list(map(NamedShard, scores.header.shards, scores.header.sizes))
    # The same shards in the same order: then those of one name are no riddle.
    if scored == list(shards):
        return list(range(len(scored)))

    counts = Counter(shard.name for shard in shards)
    index_of = {shard.name: index for index, shard in enumerate(scored)}
    places: list[int | None] = []
    for shard in shards:
        index = index_of.get(shard.name)
        # With two shards of one name, the name no longer says which one was scored.
        if index is not None and counts[shard.name] > 1:
            raise UserError(
                f"scores={scores.path}: several shards of the source have one name, "
                f"{shown(shard.name)}; score the source's shards in folders of their own"
            )
        if index is not None and scored[index] != shard:
            raise UserError(
                f"scores={scores.path}: {shown(shard.name)} of the source has {shard.bytes:,} "
                f"bytes, the one that was scored had {scored[index].bytes:,}: these are scores of "
                f"other pairs; score the source's shards"
            )
        places.append(index)
    return places


def joined_values(
    scores: Scores, place: int | None, keys: Keys, columns: Iterable[str]
) -> dict[str, Floats]:
    """Reads the scores of a shard's pairs.

    Args:
        scores: The folder of scores.
        place: Where it has the shard, by `scored_places`; None: nowhere.
        keys: The keys of the pairs, as the tar spells them.
        columns: The columns that are wanted.

    Returns:
        Column -> its values, `[keys]`; NaN where there is none.

    Raises:
        UserError: The shard's file is broken.
    """
    # NaN and not 0: a pair without a score must not pass for a poor one.
    if place is None:
        return {name: np.full(len(keys), np.nan, dtype=np.float32) for name in columns}
    scored, values = scores.read(place)
    return {name: looked_up(keys, scored, values[name]) for name in columns}
