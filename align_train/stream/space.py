"""The bytes of shards that a node holds at the same time, and the settings that would need fewer.

Each lane holds its window and the next one. Before it begins, a run computes the most that
its order will need: a shard cache that is too small would fetch each shard many times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.manifest import Manifest
from align_train.stream.order import Order
from align_train.stream.source_order import Window

_LANES_LOOKED_AT = 64
_GIGABYTE = 1e9


def space_needed(
    order: Order, sizes: NDArray[np.int64], lanes: Sequence[int], *, epochs: int = 1
) -> int:
    """Returns the most bytes of shards that lanes hold at the same time.

    Each lane holds its window and the next one; a shard of two lanes counts once. Lanes are taken
    to be at the same share of their length.

    Args:
        order: The order.
        sizes: `[shards]`, the bytes of each shard.
        lanes: The lanes. Of more than 64, which are alike, only the first 64 are looked at.
        epochs: Looks at the windows of the first so many epochs.
    """
    if len(lanes) > _LANES_LOOKED_AT:
        part = space_needed(order, sizes, lanes[:_LANES_LOOKED_AT], epochs=epochs)
        return min(part * len(lanes) // _LANES_LOOKED_AT, int(sizes.sum()))

    current = [order.window_at(lane, 0) for lane in lanes]
    following = [
        order.window_at(lane, window.last) for lane, window in zip(lanes, current, strict=True)
    ]
    end = epochs * max(source.lane_length for source in order.sources)
    position = 0
    most = 0
    while position < end:
        held = list(_shards_of([*current, *following]))
        most = max(most, int(sizes[held].sum()))

        # Nothing changes until the first of the current windows ends.
        position = min(window.last for window in current)
        for index, lane in enumerate(lanes):
            if current[index].last <= position:
                current[index] = following[index]
                following[index] = order.window_at(lane, following[index].last)
    return most


def space_of_node(order: Order, manifest: Manifest, nodes: int) -> int:
    """Returns the most bytes of shards that any of several nodes holds.

    It looks at the first node's first epoch and adds 5 %: other nodes and epochs need up to 3 %
    more (`benchmarks/order`). It is never more than there is.
    """
    sizes = np.array([shard.bytes for shard in manifest.shards], dtype=np.int64)
    needed = space_needed(order, sizes, range(max(1, order.lanes // nodes)))
    return min(needed + needed // 20, int(sizes.sum()))


def check_space(cache: ShardCache, order: Order, manifest: Manifest, nodes: int) -> str:
    """Checks that the shard cache can hold the shards that a node needs.

    Returns:
        One line about the shard cache, for the run's summary.

    Raises:
        UserError: It cannot; the text says which settings would fit.
    """
    # Vanished shards count too: so the figure stays the same over all starts of a run.
    order = order.replace(dropped=())
    needed = space_of_node(order, manifest, nodes)
    limit = int(cache.limit_gb * _GIGABYTE)
    free = cache.free_space()
    if needed <= min(limit, free):
        return (
            f"{cache.path}: a node needs {needed / _GIGABYTE:.3g} GB of at most "
            f"{cache.limit_gb:g} (its lanes x window)"
        )

    if needed > limit:
        found = f"data.staging.limit_gb={cache.limit_gb:g}"
    else:
        found = f"{cache.path}: {free / _GIGABYTE:.3g} GB free"
    fitting = " or ".join(_what_fits(order, manifest, nodes, min(limit, free)))
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

    def fits(other: Order) -> bool:
        return space_of_node(other, manifest, nodes) <= space

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


def _shards_of(windows: Sequence[Window]) -> set[int]:
    shards: set[int] = set()
    for window in windows:
        shards.update(window.shards)
    return shards
