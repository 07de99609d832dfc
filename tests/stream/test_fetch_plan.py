"""The plan of fetches: never late, held until the end, level, and the same order as ever."""

from __future__ import annotations

from collections import Counter
from itertools import takewhile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_train.stream.fetch_plan import Fetch, fetches, fetches_of_lane
from align_train.stream.order import Order
from align_train.stream.reads import fetches_until, held_bytes, reads_of_node
from align_train.stream.space import space_of_node
from tests.support.orders import orders


def plan_of_lane(order: Order, lane: int, begin: int, end: int) -> list[Fetch]:
    plan = fetches_of_lane(order, lane, begin)
    return list(takewhile(lambda fetch: fetch.release < end, plan))


@given(order=orders, data=st.data())
def test_every_shard_is_fetched_before_it_is_needed_and_held_until_its_last_pair(
    order: Order, data: st.DataObject
) -> None:
    lane = data.draw(st.integers(0, order.lanes - 1))
    length = order.sources[0].lane_length
    begin = data.draw(st.integers(0, 2 * length))
    end = begin + data.draw(st.integers(1, 2 * length))
    plan = plan_of_lane(order, lane, begin, end)

    assert [fetch.release for fetch in plan] == sorted(fetch.release for fetch in plan)
    assert all(begin <= fetch.release <= fetch.need < fetch.last for fetch in plan)
    positions = np.arange(begin, end)
    visits = order.at(np.full_like(positions, lane), positions)
    for position, shard in zip(positions.tolist(), visits.shard.tolist(), strict=True):
        assert any(fetch.shard == shard and fetch.need <= position < fetch.last for fetch in plan)


def test_a_delayed_shard_waits_for_those_of_a_short_epoch_that_come_before_it() -> None:
    """A window of two pairs ends the epoch, and the next begins with another: both are delayed."""
    order = Order(counts=[57, 60, 60, 60, 60], seed=0, lanes=8, window=11)
    releases = [fetch.release for fetch in plan_of_lane(order, lane=1, begin=0, end=67)]

    assert releases == sorted(releases)


@given(order=orders, data=st.data())
def test_a_shard_of_two_windows_is_held_through_both(order: Order, data: st.DataObject) -> None:
    lane = data.draw(st.integers(0, order.lanes - 1))
    begin = data.draw(st.integers(0, order.sources[0].lane_length))
    window = order.window_at(lane, begin)
    following = order.window_at(lane, window.last)
    plan = plan_of_lane(order, lane, begin, following.last)
    for shard in set(window.shards) & set(following.shards):
        first = next(fetch for fetch in plan if fetch.shard == shard)
        assert first.last >= following.last


@given(order=orders, data=st.data())
def test_a_run_under_way_has_an_eighth_of_a_window_of_notice(
    order: Order, data: st.DataObject
) -> None:
    lane = data.draw(st.integers(0, order.lanes - 1))
    length = order.sources[0].lane_length
    begin = data.draw(st.integers(0, 2 * length))
    notice = min(order.window, length) / 8
    for fetch in plan_of_lane(order, lane, begin, begin + 3 * length):
        left = fetch.need - begin
        assert fetch.need - fetch.release >= min(notice, left / 2) - 1e-6


@given(order=orders, data=st.data())
def test_a_resumed_run_needs_the_same_shards_at_the_same_positions(
    order: Order, data: st.DataObject
) -> None:
    lane = data.draw(st.integers(0, order.lanes - 1))
    length = order.sources[0].lane_length
    begin = data.draw(st.integers(1, 2 * length))
    end = begin + 2 * length

    def needs(position: int) -> Counter[tuple[int, int, int]]:
        # A plan is by release, which is never more than two windows ahead of need.
        plan = plan_of_lane(order, lane, position, end + 3 * length)
        rows = [(fetch.need, fetch.last, fetch.shard) for fetch in plan]
        return Counter(row for row in rows if begin < row[0] < end)

    assert needs(begin) == needs(0)


def test_the_plans_of_lanes_are_merged_by_release() -> None:
    order = Order(counts=[10] * 40, seed=0, lanes=4, window=20)
    plan = fetches(order, range(4), 0)
    releases = [next(plan).release for _ in range(200)]
    assert releases == sorted(releases)


def test_a_lane_inside_one_shard_an_epoch_has_a_plan() -> None:
    order = Order(counts=[1000] * 50, seed=0, lanes=500, window=20)
    plan = plan_of_lane(order, 3, 0, 2000)
    assert len({fetch.shard for fetch in plan}) > 10


@given(order=orders, data=st.data())
def test_a_window_says_where_its_shards_begin(order: Order, data: st.DataObject) -> None:
    lane = data.draw(st.integers(0, order.lanes - 1))
    length = order.sources[0].lane_length
    window = order.window_at(lane, data.draw(st.integers(0, 2 * length)))
    assert window.begins[0] == window.first or order.sources[0].whole_epoch
    assert list(window.begins) == sorted(window.begins)
    assert all(window.first <= begin < window.last for begin in window.begins)

    # The row's end may lie in a shard: a long window meets such a shard's end, then its beginning.
    meets_one_twice = order.counts.max() + order.window > order.counts.sum()
    if not order.sources[0].whole_epoch and not meets_one_twice:
        positions = np.arange(window.first, window.last)
        drawn = order.at(np.full_like(positions, lane), positions).shard
        lengths = np.diff([*window.begins, window.last]).tolist()
        assert Counter(drawn.tolist()) == dict(zip(window.shards, lengths, strict=True))


@given(order=orders, data=st.data())
def test_a_node_holds_what_a_fetch_has_brought_and_a_lane_still_needs(
    order: Order, data: st.DataObject
) -> None:
    lanes = range(data.draw(st.integers(1, order.lanes)))
    end = 2 * order.sources[0].lane_length
    sizes = np.arange(1, len(order.counts) + 1)
    plan = fetches_until(order, lanes, end)

    most = 0
    for time in {fetch.release for fetch in plan}:
        held = {fetch.shard for fetch in plan if fetch.release <= time < fetch.last}
        most = max(most, int(sizes[list(held)].sum()))
    assert held_bytes(reads_of_node(plan), sizes, 0, end)[0] == most


@pytest.mark.parametrize("lanes_of_node", [1, 2, 8, 64])
def test_what_a_run_asks_of_its_disk_is_more_than_any_node_ever_holds(lanes_of_node: int) -> None:
    counts = np.random.default_rng(0).integers(50, 150, 6000)
    order = Order(counts=counts, seed=0, lanes=128, window=350)
    sizes = counts * 1000
    nodes = 128 // lanes_of_node
    asked = space_of_node(order, sizes, nodes)
    end = 3 * order.sources[0].lane_length
    for node in range(0, nodes, max(1, nodes // 16)):
        lanes = range(node * lanes_of_node, (node + 1) * lanes_of_node)
        reads = reads_of_node(fetches_until(order, lanes, end))
        assert held_bytes(reads, sizes, 0, end)[0] <= asked < sizes.sum()
