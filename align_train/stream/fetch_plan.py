"""Which shards the lanes of a rank need, and from when to when: a pure function of the order.

A lane draws from one window at a time, and needs all shards of a window from its first position on.
Positions are those of the order: the pairs that each lane has given. The *place* of a shard is the
position at which its pairs would begin if nothing were shuffled. The rule keeps the network's load
level:

- A shard is fetched one window and an eighth before its place. Places follow each other evenly in a
  lane, however its windows are cut. A window's last place comes less than a window after its first
  position, so a lane has at least an eighth of a window of *notice*.
- All lanes begin an epoch at the same position, each with another shard. These first shards are
  needed at the epoch's first position, so they may come later than their place says. Each lane
  delays its own by another share of a window, which spreads them over a window.
- A run that begins, or resumes, fetches the present windows at once, because the first step already
  draws from nearly all of their shards. Then a lane fetches at twice its own pace until it is a
  window and an eighth ahead. A window that would come too late so is fetched earlier: with the full
  notice, or with half of the time that is left.

So no shard is fetched later than it is needed. `benchmarks/order` simulates the plan at 75,000
shards.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from align_train.stream.order import Order

_NOTICE = 1 / 8  # of a window, between a shard's release and its need
_PACE = 2  # the places that a lane fetches in the time of one pair, until it is ahead
_GOLDEN = 0.6180339887498949  # its multiples, modulo 1, lie evenly for any run of lanes


@dataclass(frozen=True, order=True)
class Fetch:
    """One shard for one lane. Fetches sort by their release.

    Attributes:
        release: The position from which on the shard is fetched.
        need: The position from which on the lane needs it.
        last: The position at which the lane is done with it (exclusive).
        lane: The lane.
        shard: The shard's index in the manifest.
    """

    release: float
    need: int
    last: int
    lane: int
    shard: int


def fetches_of_lane(order: Order, lane: int, position: int) -> Iterator[Fetch]:
    """Plans the fetches of one lane.

    Args:
        order: The order.
        lane: The lane.
        position: The lane's position at which the plan begins.

    Yields:
        Fetches by their release, without end. A shard that the lane goes on needing comes again
        with each window, so that it can be marked as in use.
    """
    # Small data is one window over the whole epoch.
    length = min(order.window, order.source_of_lane(lane).lane_length)
    notice = length * _NOTICE
    delay = length * (lane * _GOLDEN % 1)  # of an epoch's first shard

    window = order.window_at(lane, position)
    present = window.last
    before: tuple[int, ...] = window.shards
    delayed: list[Fetch] = []  # until their turn comes
    while True:
        following = order.window_at(lane, window.last)
        need = max(window.first, position)
        latest = need - min(notice, (need - position) / 2)
        for shard, place in zip(window.shards, window.begins, strict=True):
            # A shard that begins with its window, and not in the one before, begins an epoch.
            is_edge = place == window.first and shard not in before
            level = place - length - notice
            catching_up = position + max(0, (place - present) / _PACE)
            undelayed = min(latest, max(level, catching_up))
            fetch = Fetch(
                release=min(latest, max(level + delay, catching_up)) if is_edge else undelayed,
                need=need,
                last=following.last if shard in following.shards else window.last,
                lane=lane,
                shard=shard,
            )

            # Without delays, no later fetch would come earlier than this one.
            while delayed and delayed[0].release <= undelayed:
                yield delayed.pop(0)
            if is_edge:
                delayed.append(fetch)
            else:
                yield fetch

        before = window.shards
        window = following


def fetches(order: Order, lanes: Sequence[int], position: int) -> Iterator[Fetch]:
    """Plans the fetches of several lanes, merged by release; see `fetches_of_lane`."""
    return heapq.merge(*(fetches_of_lane(order, lane, position) for lane in lanes))
