"""The load of fetches: level at an epoch's edge and after the start, on a small cluster."""

from __future__ import annotations

import numpy as np
import pytest

from align_train.planning.fetching import FetchLoad, fetch_load
from align_train.stream.order import Order

NODES = 64
LANES = 8 * NODES


@pytest.fixture(scope="module")
def order() -> Order:
    # As in `benchmarks/order`: 73 uneven shards a lane, windows of three and a half.
    counts = np.random.default_rng(0).normal(940, 100, 73 * LANES).astype(np.int64)
    return Order(counts=counts, seed=0, lanes=LANES, window=3277)


def load_from(order: Order, epochs: float) -> FetchLoad:
    position = int(epochs * order.sources[0].lane_length)
    return fetch_load(order, order.counts * 1000, NODES, position=position)


@pytest.mark.parametrize("epochs", [0.0, 0.37, 0.98])
def test_fetches_are_level_at_an_epochs_edge_and_after_the_first_windows(
    order: Order, epochs: float
) -> None:
    load = load_from(order, epochs)
    assert load.edge.all_nodes <= 2
    assert load.start.all_nodes <= 4
    assert load.edge.one_node <= 3
    assert load.start.one_node <= 5


def test_a_node_reads_hardly_more_than_it_must_and_holds_less_than_a_run_asks_for(
    order: Order,
) -> None:
    load = load_from(order, 0)
    assert 1 <= load.ratio < 1.02
    assert load.bytes_held <= load.bytes_checked

    # Two windows and an eighth, and the three shards that a window and an edge cut.
    assert load.bytes_held < 8 * 1000 * (2.125 * 3277 + 3 * 940)


def test_the_first_windows_are_read_as_a_run_begins(order: Order) -> None:
    load = load_from(order, 0)
    windows = [len(order.window_at(lane, 0).shards) for lane in range(LANES)]
    mean = load.reads * NODES / 200
    # A node may hold a shard for two of its lanes.
    assert load.first_windows.all_nodes == pytest.approx(sum(windows) / mean, rel=0.01)
    assert load.start_in_all.all_nodes <= load.first_windows.all_nodes + load.start.all_nodes


def test_a_few_nodes_stand_for_all(order: Order) -> None:
    whole = load_from(order, 0)
    part = fetch_load(order, order.counts * 1000, NODES, played=8)
    assert part.reads == pytest.approx(whole.reads, rel=0.02)
    assert part.bytes_held <= whole.bytes_held
    assert part.bytes_checked == whole.bytes_checked


def test_data_that_stays_in_the_caches_has_no_ratios() -> None:
    # Each lane holds every shard, so more lanes would cost their number squared.
    counts = np.full(2 * 64, 100)
    small = Order(counts=counts, seed=0, lanes=64, window=3277)
    load = fetch_load(small, counts * 1000, 8)
    assert not np.isfinite(load.edge.one_node)
    assert load.ratio == 1
