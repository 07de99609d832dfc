"""Finds the shards of a source among those that were scored: by name, and by size.

Two data sets may both have a `00000.tar`, with the same keys. A shard of the same name and another
size is another shard, or was made anew: its scores are of other pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from align_train.errors import UserError, shown
from align_train.index.scores import Scores


class NamedShard(NamedTuple):
    """A shard as scores know it.

    Attributes:
        name: The tar's file name.
        bytes: Its size.
    """

    name: str
    bytes: int


def scored_places(scores: Scores, shards: Sequence[NamedShard]) -> list[int | None]:
    """Where each shard is among those that were scored.

    Args:
        scores: The folder of scores.
        shards: Those of the source, in any order.

    Returns:
        For each shard its index in the folder; None if it was not scored.

    Raises:
        UserError: A shard changed since it was scored, or several that were scored look like it.
    """
    scored = list(map(NamedShard, scores.header.shards, scores.header.sizes))
    # The same shards in the same order: then those of one name are no riddle.
    if scored == list(shards):
        return list(range(len(scored)))

    by_name: dict[str, list[int]] = defaultdict(list)
    for index, shard in enumerate(scored):
        by_name[shard.name].append(index)
    return [_place(scores, scored, by_name.get(shard.name, []), shard) for shard in shards]


def _place(
    scores: Scores, scored: Sequence[NamedShard], alike: Sequence[int], shard: NamedShard
) -> int | None:
    """Finds a shard among those that were scored and have its name."""
    if not alike:
        return None

    same = [index for index in alike if scored[index] == shard]
    if not same:
        raise UserError(
            f"scores={scores.path}: {shown(shard.name)} of the source has {shard.bytes:,} bytes, "
            f"the one that was scored had {scored[alike[0]].bytes:,}: these are scores of other "
            f"pairs; score the source's shards"
        )
    if len(same) > 1:
        raise UserError(
            f"scores={scores.path}: several of its shards are called {shown(shard.name)}, and it "
            f"was made of other shards than the source's; score the source's shards"
        )
    return same[0]
