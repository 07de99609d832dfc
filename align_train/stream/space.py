"""The bytes of shards that a node holds at the same time, and the settings that would need fewer.

Each lane holds its window, the next one, and the shards that it fetches with notice. Before it
begins, a run computes the most that its order will need: a shard cache that is too small would
fetch each shard many times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.manifest import Manifest
from align_train.stream.order import Order
from align_train.stream.reads import fetches_until, held_bytes, reads_of_node

_LANES_LOOKED_AT = 64
_MARGIN = 0.1
_ENOUGH_TO_GO_ON = 0.5  # of the space needed
_GIGABYTE = 1e9


def space_needed(
    order: Order, sizes: NDArray[np.int64], lanes: Sequence[int], *, epochs: int = 1
) -> int:
    """Returns the most bytes of shards that lanes hold at the same time, by the plan of fetches.

    A shard of two lanes counts once. Lanes are taken to be at the same share of their length.

    Args:
        order: The order.
        sizes: `[shards]`, the bytes of each shard.
        lanes: The lanes. Of more than 64, which are alike, only the first 64 are looked at.
        epochs: Looks at the first so many epochs, and at the first window of the next.
    """
    if len(lanes) > _LANES_LOOKED_AT:
        part = space_needed(order, sizes, lanes[:_LANES_LOOKED_AT], epochs=epochs)
        return min(part * len(lanes) // _LANES_LOOKED_AT, int(sizes.sum()))

    # Most is held as one epoch ends and the next begins.
    end = epochs * max(source.lane_length for source in order.sources) + order.window
    reads = reads_of_node(fetches_until(order, lanes, end))
    most, _ = held_bytes(reads, sizes, 0, end)
    return most


def space_of_node(order: Order, sizes: NDArray[np.int64], nodes: int) -> int:
    """Returns the most bytes of shards that any of several nodes holds.

    It plays 64 lanes in all: of some nodes, or of some epochs if there are few nodes. It adds 10 %,
    because other nodes and epochs need a little more (`benchmarks/order`). It is never more than
    there is.

    Args:
        order: The order.
        sizes: `[shards]`, the bytes of each shard.
        nodes: The nodes, which share the lanes.
    """
    per_node = max(1, order.lanes // nodes)
    plays = max(1, _LANES_LOOKED_AT // per_node)
    looked_at = min(nodes, plays)
    most = 0
    for index in range(looked_at):
        first = index * nodes // looked_at * per_node % order.lanes
        lanes = range(first, first + per_node)
        most = max(most, space_needed(order, sizes, lanes, epochs=plays // looked_at))
    return min(most + int(most * _MARGIN), int(sizes.sum()))


def check_space(
    cache: ShardCache, order: Order, manifest: Manifest, nodes: int, *, begun: bool = False
) -> str:
    """Checks that the shard cache can hold the shards that a node needs.

    Args:
        cache: The shard cache.
        order: The order.
        manifest: The shards.
        nodes: The nodes, which share the lanes.
        begun: The run has begun before, perhaps under a version that asked for less. Half of the
            space is enough then; it will fetch some shards twice.

    Returns:
        One line about the shard cache, for the run's summary.

    Raises:
        UserError: It cannot; the text says which settings would fit.
    """
    # Vanished shards count too: so the figure stays the same over all starts of a run.
    order = order.replace(dropped=())
    sizes = np.array([shard.bytes for shard in manifest.shards], dtype=np.int64)
    needed = space_of_node(order, sizes, nodes)
    limit = int(cache.limit_gb * _GIGABYTE)
    free = cache.free_space()
    room = min(limit, free)
    if needed <= room:
        return (
            f"{cache.path}: a node needs {needed / _GIGABYTE:.3g} GB of at most "
            f"{cache.limit_gb:g} (its lanes x window)"
        )
    if begun and needed * _ENOUGH_TO_GO_ON <= room:
        return (
            f"{cache.path}: a node needs {needed / _GIGABYTE:.3g} GB and has "
            f"{room / _GIGABYTE:.3g}; it will fetch some shards twice (data.staging.limit_gb)"
        )

    if needed > limit:
        found = f"data.staging.limit_gb={cache.limit_gb:g}"
    else:
        found = f"{cache.path}: {free / _GIGABYTE:.3g} GB free"
    fitting = " or ".join(_what_fits(order, manifest, nodes, room))
    if fitting:
        fix = f"{fitting} would fit"
    else:
        fix = "no smaller window would fit; raise the limit, or take more nodes"
    raise UserError(
        f"{found}: a node needs {needed / _GIGABYTE:.3g} GB for its {order.lanes // nodes} lanes x "
        f"{order.window} pairs of window and the window after; {fix}"
    )


def _what_fits(order: Order, manifest: Manifest, nodes: int, space: int) -> Iterator[str]:
    """Yields the largest window, and the largest number of lanes, that fit by themselves."""
    sizes = np.array([shard.bytes for shard in manifest.shards], dtype=np.int64)

    def fits(other: Order) -> bool:
        return space_of_node(other, sizes, nodes) <= space

    # Below a quarter of a shard a smaller window saves nothing: whole shards are held.
    least = max(int(manifest.counts.max()) // 4, 1)
    window = order.window // 2
    while window > least:
        # A window over the whole epoch would hold every shard.
        shuffles_in_windows = window * order.lanes < manifest.pairs
        if shuffles_in_windows and fits(order.replace(window=window)):
            yield f"data.window={window}"
            break
        window //= 2

    for lanes in range(order.lanes - 1, 0, -1):
        # Each node, and each source, must keep a whole number of lanes.
        divides = order.lanes % lanes == 0 and lanes % (nodes * len(order.pattern)) == 0
        if divides and fits(order.replace(lanes=lanes)):
            yield f"data.lanes={lanes}"
            break
