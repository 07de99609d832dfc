"""The load that a run's fetches put on the network and on the nodes' disks, simulated.

The real plan of fetches (`stream/fetch_plan.py`) of the real order is played without I/O. Time is
counted in positions: an epoch lasts as many as a lane has pairs. `benchmarks/order` prints more.

Price: 3 seconds of CPU time for 75,000 shards, 1,024 lanes and 128 nodes; it grows with the windows
in an epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from align_train.stream.fetch_plan import Fetch
from align_train.stream.order import Order
from align_train.stream.permutation import Integers
from align_train.stream.reads import Floats, Reads, fetches_until, held_bytes, reads_of_node
from align_train.stream.space import space_of_node

SLICES = 200  # of an epoch
_EDGE = (0.1, 1.1)  # in epochs from the start: once around, without the start


@dataclass(frozen=True)
class Busiest:
    """Reads in the busiest of 200 equal slices of an epoch's time, over those in a mean one.

    The mean is that of an epoch's time without the run's start.

    Attributes:
        all_nodes: The ratio of all nodes together.
        one_node: The median of the nodes' own ratios.
    """

    all_nodes: float
    one_node: float


@dataclass(frozen=True)
class FetchLoad:
    """The fetches of a cluster.

    Attributes:
        reads: Shards that a node reads in the first epoch, the mean of the nodes.
        least_reads: Shards of which a node needs a pair: no plan reads fewer.
        bytes_held: The most bytes that one of the nodes holds at the same time.
        bytes_checked: The bytes for which a run asks its shard cache.
        first_windows: Reads for the present windows, all of which the first step draws from, over
            those in a mean slice.
        start: The busiest slice of the first epoch, without these.
        start_in_all: The busiest slice of the first epoch, with them.
        edge: The busiest slice around the edge to the second epoch.
    """

    reads: float
    least_reads: float
    bytes_held: int
    bytes_checked: int
    first_windows: Busiest
    start: Busiest
    start_in_all: Busiest
    edge: Busiest

    @property
    def ratio(self) -> float:
        """Reads over the least possible."""
        return self.reads / self.least_reads


def fetch_load(
    order: Order, sizes: Integers, nodes: int, *, played: int | None = None, position: int = 0
) -> FetchLoad:
    """Simulates the fetches of 1.1 epochs.

    Args:
        order: The order. An epoch is the first source's.
        sizes: `[shards]`, the bytes of each shard.
        nodes: The nodes, each with as many lanes.
        played: How many nodes are played; they lie evenly among all. None: all of them. Fewer nodes
            overstate the busiest slice of all nodes together.
        position: The position at which the run begins.
    """
    length = order.sources[0].lane_length
    end = position + _EDGE[1] * length
    # The shard caches of nodes do not depend on each other, so each node is played by itself.
    plays: list[Reads] = []
    least: list[int] = []
    held: list[int] = []
    for lanes in lanes_of_nodes(order, nodes, played):
        fetches = fetches_until(order, lanes, end, position=position)
        reads = reads_of_node(fetches)
        plays.append(reads)
        least.append(least_reads(fetches, order, lanes, position))
        held.append(held_bytes(reads, sizes, position, end)[0])

    begin = position / length
    in_epoch = [int((reads.need < position + length).sum()) for reads in plays]
    at = [reads.at for reads in plays]
    # Reads for the first windows come in one burst at the start, and are counted apart.
    later = [reads.at[reads.need > position] for reads in plays]
    first = [int((reads.need <= position).sum()) for reads in plays]
    # All four figures are measured by this: a whole epoch that has nothing of the start.
    around = per_slice(at, length, begin + _EDGE[0], begin + _EDGE[1])
    return FetchLoad(
        reads=float(np.mean(in_epoch)),
        least_reads=float(np.mean(least)),
        bytes_held=max(held),
        bytes_checked=space_of_node(order, sizes, nodes),
        first_windows=busiest(np.array(first)[:, None], around),
        start=busiest(per_slice(later, length, begin, begin + 1), around),
        start_in_all=busiest(per_slice(at, length, begin, begin + 1), around),
        edge=busiest(around, around),
    )


def lanes_of_nodes(order: Order, nodes: int, played: int | None = None) -> list[range]:
    """Returns the lanes of each node that is played; these nodes lie evenly among all.

    Args:
        order: The order.
        nodes: The nodes, each with as many lanes.
        played: How many nodes are played; None: all of them.
    """
    per_node = max(1, order.lanes // nodes)
    count = min(played or nodes, nodes)
    lanes = []
    for node in (np.arange(count) * nodes // count).tolist():
        lanes.append(range(node * per_node, (node + 1) * per_node))
    return lanes


def least_reads(fetches: Iterable[Fetch], order: Order, lanes: Iterable[int], begin: int) -> int:
    """Counts the shards that hold a pair of some lanes in the epoch after a position.

    Args:
        fetches: The fetches of these lanes.
        order: The order.
        lanes: The lanes.
        begin: The position.
    """
    end = begin + order.sources[0].lane_length
    needed = {fetch.shard for fetch in fetches if begin <= fetch.need < end}

    # A shard that was fetched for the epoch before, and is needed on into this one, is no new
    # fetch.
    for lane in lanes:
        needed.update(order.window_at(lane, begin).shards)
    return len(needed)


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
    # `round`: the difference of two floats may lie just below a whole number.
    slices = round(SLICES * (end - begin))
    stretch = (begin * length, end * length)
    rows = []
    for at in times:
        counts, _ = np.histogram(at, bins=slices, range=stretch)
        rows.append(counts)
    return np.stack(rows)


def busiest(counts: Integers, all_counts: Integers) -> Busiest:
    """Divides the reads of the busiest slice by those of a mean one.

    Args:
        counts: `[nodes, slices]`, the slices of which the busiest is taken.
        all_counts: `[nodes, slices]`, those of which the mean is taken.

    Returns:
        Both ratios; they are not finite if the mean is 0, since all data stays in the caches.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        together = counts.sum(axis=0).max() / all_counts.sum(axis=0).mean()
        of_nodes = counts.max(axis=1) / all_counts.mean(axis=1)
    return Busiest(all_nodes=float(together), one_node=float(np.median(of_nodes)))
