"""Replaces a pair that cannot be used by another one.

A pair whose *content* is bad is replaced by the next good pair of its shard. If the shard has none,
a pair of the next shard in the epoch's order replaces it. It is the same pair on every machine, and
the batch is never short. The pair travels along as a `BadPair`, and the run writes it down.

A *shard* that has vanished is never replaced here. It stops the run, or travels along as `Gone`,
and the ranks agree on the step from which they do without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from align_train.errors import UserError
from align_train.stream.order import Order
from align_train.stream.pairs import Drawn, Pairs

_PAIRS_TRIED = 100  # of a shard, before it counts as bad throughout
_SHARDS_TRIED = 5  # in a row, before the run gives up


@dataclass(frozen=True)
class BadPair:
    """A pair that could not be used.

    Attributes:
        step: The step, as in metrics.csv: the first is 1.
        key: The pair's name, `shard/key`.
        reason: Why it could not be used.
        replaced_by: The name of the pair in its place.
    """

    step: int
    key: str
    reason: str
    replaced_by: str


@dataclass(frozen=True)
class Gone:
    """Stands in place of a piece that needs a vanished shard.

    Attributes:
        shard: The shard's index in the manifest.
    """

    shard: int


class Usable(NamedTuple):
    """A pair that could be drawn.

    Attributes:
        drawn: Its pixels and text.
        key: Its name, `shard/key`.
        shard: The index of its shard in the manifest.
        pair: Its index in the shard.
        reason: Why the pair that was asked for could not be used; empty if this is that pair.
    """

    drawn: Drawn
    key: str
    shard: int
    pair: int
    reason: str = ""


def draw_usable(
    pairs: Pairs, order: Order, *, epoch: int, shard: int, pair: int, seed: int
) -> Usable:
    """Draws a pair, or the first good one after it.

    Args:
        pairs: The pairs.
        order: Says which shard follows a shard.
        epoch: The visit's epoch.
        shard: The shard's index in the manifest.
        pair: The pair's index in the shard.
        seed: Decides all that is random about the visit, whichever pair it shows.

    Raises:
        Vanished: A shard is not there any more.
        UserError: A shard cannot be read, or there is no good pair in several shards.
    """
    reason = ""
    current = shard
    for _ in range(_SHARDS_TRIED):
        reader = pairs.reader(current)
        for attempt in range(min(len(reader), _PAIRS_TRIED)):
            # Past the shard's end the search goes on at its beginning.
            candidate = (pair + attempt) % len(reader)
            try:
                drawn = pairs.draw(current, candidate, seed)
            except ValueError as error:
                if isinstance(error, UserError):  # about the shard, not about a pair in it
                    raise
                reason = reason or str(error)  # of the pair that was asked for
                continue
            return Usable(drawn, reader.key(candidate), current, candidate, reason)
        current = order.neighbour(current, epoch)

    raise UserError(
        f"{pairs.reader(shard).path}: no good pair in it nor in the {_SHARDS_TRIED - 1} shards "
        f"that follow ({reason}); leave such shards out, or repair them"
    )
