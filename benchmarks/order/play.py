"""Plays the plan of fetches: the reads of a node, the bytes that it holds, and when both happen.

Times are positions in a lane. An epoch lasts as many positions as a lane has pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from align_train.stream.fetch_plan import Fetch, fetches_of_lane
from align_train.stream.order import Order
from align_train.stream.permutation import Integers
from align_train.stream.source_order import SourceOrder

SLICES = 200  # of an epoch

Floats = NDArray[np.float64]


class Unstaggered(SourceOrder):
    """The order as it would be if all lanes had the same windows."""

    def _window(self, lane: Integers, offset: Integers) -> tuple[Integers, Integers, Integers]:
        window = offset // self.window
        start = window * self.window
        rest = self.lane_length - start
        length = np.minimum(self.window, rest)
        return start, length, window


@dataclass(frozen=True)
class Reads:
    """The reads of one node, element by element.

    Attributes:
        at: `[reads]`, the position at which the shard is fetched.
        need: `[reads]`, the position at which it is needed first.
        until: `[reads]`, the position until which it is held.
        shard: `[reads]`, its index.
    """

    at: Floats
    need: Integers
    until: Integers
    shard: Integers

    def needed_in(self, epoch: int, length: int) -> int:
        """Counts the reads that are needed in an epoch of `length` positions."""
        inside = (self.need >= epoch * length) & (self.need < (epoch + 1) * length)
        return int(inside.sum())


def plan(order: Order, lanes: Iterable[int], end: float) -> list[Fetch]:
    """Lists fetches.

    Args:
        order: The order.
        lanes: The lanes whose fetches are listed.
        end: The position before which they are released.
    """
    fetches: list[Fetch] = []
    for lane in lanes:
        of_lane = fetches_of_lane(order, lane, 0)
        fetches.extend(takewhile(lambda fetch: fetch.release < end, of_lane))
    return fetches


def all_at_once(fetches: list[Fetch]) -> list[Fetch]:
    """Returns the same plan without the spreading of a window's fetches.

    All fetches of a window are released as the window before it begins.
    """
    begin: dict[tuple[int, int], float] = {}
    for fetch in fetches:
        key = fetch.lane, fetch.need
        begin[key] = min(fetch.release, begin.get(key, fetch.release))
    return [replace(fetch, release=begin[fetch.lane, fetch.need]) for fetch in fetches]


def reads_of_node(fetches: Iterable[Fetch]) -> Reads:
    """Plays the fetches of a node's lanes.

    A fetch is a read unless the shard is held. A shard is held until the last window that has
    announced it is over.
    """
    rows: list[list[float]] = []
    held: dict[int, list[float]] = {}
    for fetch in sorted(fetches):
        row = held.get(fetch.shard)
        if row is not None and row[2] > fetch.release:
            row[1] = min(row[1], fetch.need)
            row[2] = max(row[2], fetch.last)
            continue

        row = [fetch.release, fetch.need, fetch.last, fetch.shard]
        held[fetch.shard] = row
        rows.append(row)

    at, need, until, shard = np.array(rows).T
    return Reads(
        at=at,
        need=need.astype(np.int64),
        until=until.astype(np.int64),
        shard=shard.astype(np.int64),
    )


def least_reads(fetches: list[Fetch], order: Order, lanes: Iterable[int], epoch: int) -> int:
    """Counts the shards that hold a pair of some lanes in an epoch.

    Args:
        fetches: The fetches of these lanes.
        order: The order.
        lanes: The lanes.
        epoch: The epoch, from 0.
    """
    begin = epoch * order.sources[0].lane_length
    end = begin + order.sources[0].lane_length
    needed = {fetch.shard for fetch in fetches if begin <= fetch.need < end}

    # A shard that was fetched for the epoch before, and is needed on into this one, is no new
    # fetch.
    for lane in lanes:
        needed.update(order.window_at(lane, begin).shards)
    return len(needed)


def held_bytes(reads: Reads, sizes: Integers, begin: float, end: float) -> tuple[float, float]:
    """Returns the most bytes that are held at the same time, and the mean over time.

    Args:
        reads: The reads of a node.
        sizes: `[shards]`, bytes.
        begin: The position from which on the node is looked at.
        end: The position at which that ends (exclusive).
    """
    when = np.concatenate([reads.at, reads.until])
    change = np.concatenate([sizes[reads.shard], -sizes[reads.shard]])
    by_time = np.lexsort((change, when))  # at the same time, evictions come first
    when = when[by_time]
    held = np.cumsum(change[by_time])

    inside = (when >= begin) & (when < end)
    lasts = np.diff(np.append(when, end))[inside]
    held = held[inside]
    mean = (held * lasts).sum() / lasts.sum()
    return float(held.max()), float(mean)


def per_slice(times: Sequence[Floats], length: int, begin: float, end: float) -> Integers:
    """Counts reads in the slices of a stretch of time.

    Args:
        times: The times of each node's reads.
        length: Positions of an epoch.
        begin: The begin of the stretch, in epochs.
        end: Its end.

    Returns:
        `[nodes, slices]`.
    """
    slices = round(SLICES * (end - begin))
    stretch = (begin * length, end * length)
    rows = []
    for at in times:
        counts, _ = np.histogram(at, bins=slices, range=stretch)
        rows.append(counts)
    return np.stack(rows)


def busiest(counts: Integers) -> tuple[float, float]:
    """Divides the reads of the busiest slice by those of a mean one.

    Args:
        counts: `[nodes, slices]`.

    Returns:
        The ratio of all nodes together, and the median of the nodes' own ratios.
    """
    together = counts.sum(axis=0)
    of_nodes = counts.max(axis=1) / counts.mean(axis=1)
    return float(together.max() / together.mean()), float(np.median(of_nodes))
