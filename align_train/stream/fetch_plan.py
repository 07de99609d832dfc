"""Which shards the lanes of a rank need, and from when to when: a pure function of the order.

A lane draws from one window at a time, and needs all shards of a window from its first position on.
While it is in one window, the new shards of the next are fetched one after the other, spread
evenly. The lanes' first windows are cut at different lengths, so their fetches come at different
times: the network sees a level load, not a burst.

Positions are those of the order: the pairs that each lane has given. `benchmarks/order` simulates
the plan at 75,000 shards.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from align_train.stream.order import Order


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
    window = order.window_at(lane, position)
    begin = position  # from here to the window's first position its fetches are spread
    before: tuple[int, ...] = ()
    while True:
        following = order.window_at(lane, window.last)
        need = max(window.first, position)
        new = [shard for shard in window.shards if shard not in before]
        kept = [shard for shard in window.shards if shard in before]

        # The new ones first: those that are kept are in the shard cache already.
        for index, shard in enumerate([*new, *kept]):
            share = min(index / max(len(new), 1), 1)
            last = following.last if shard in following.shards else window.last
            yield Fetch(
                release=begin + (need - begin) * share,
                need=need,
                last=last,
                lane=lane,
                shard=shard,
            )

        before = window.shards
        begin = need
        window = following


def fetches(order: Order, lanes: Sequence[int], position: int) -> Iterator[Fetch]:
    """Plans the fetches of several lanes, merged by release; see `fetches_of_lane`."""
    return heapq.merge(*(fetches_of_lane(order, lane, position) for lane in lanes))
