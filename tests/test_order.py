"""The order: each pair once an epoch, the same for every world, a pure function of position, and never changed by accident."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_train.errors import UserError
from align_train.stream.order import Order, Visits, hash_words, permute


def numbers(order: Order, visits: Visits) -> list[int]:
    """Each visited pair's number among all pairs, in the manifest's order."""
    starts = np.concatenate([[0], np.cumsum(order.counts)])
    assert (visits.pair >= 0).all()
    assert (visits.pair < order.counts[visits.shard]).all()
    return [int(number) for number in starts[visits.shard] + visits.pair]


def epoch_of(order: Order, epoch: int) -> list[int]:
    lane = np.repeat(np.arange(order.lanes), order.lane_length)
    position = np.tile(np.arange(order.lane_length), order.lanes) + epoch * order.lane_length
    return numbers(order, order.at(lane, position))


orders = st.builds(
    Order,
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=20).filter(lambda counts: sum(counts) >= 16),
    seed=st.integers(0, 2**62),
    lanes=st.sampled_from([1, 2, 4, 8, 16]),
    window=st.integers(1, 50),
)


@given(order=orders, epoch=st.integers(0, 1000))
def test_an_epoch_has_each_pair_at_most_once_and_leaves_out_fewer_than_the_lanes(order: Order, epoch: int) -> None:
    seen = epoch_of(order, epoch)
    assert len(set(seen)) == len(seen) == order.epoch_pairs
    assert 0 <= order.pairs - order.epoch_pairs < order.lanes


@given(order=orders, per_lane=st.integers(1, 5), step=st.integers(0, 500), data=st.data())
def test_a_global_batch_is_the_same_for_every_split_and_whatever_was_asked_before(
    order: Order, per_lane: int, step: int, data: st.DataObject
) -> None:
    size = per_lane * order.lanes
    whole = numbers(order, order.global_batch(step * size, size, np.arange(size)))
    world = data.draw(st.sampled_from([world for world in (1, 2, 4, 8, 16) if order.lanes % world == 0]))
    afresh = Order(counts=order.counts, seed=order.seed, lanes=order.lanes, window=order.window)
    parts = np.arange(size).reshape(world, -1)
    assert [n for part in parts for n in numbers(afresh, afresh.global_batch(step * size, size, part))] == whole


@settings(max_examples=20, deadline=None)
@given(order=orders)
def test_a_global_batch_goes_on_where_the_last_one_ended(order: Order) -> None:
    """One epoch read batch by batch is that epoch."""
    size = order.lanes
    read = [
        n for step in range(order.lane_length) for n in numbers(order, order.global_batch(step * size, size, np.arange(size)))
    ]
    assert sorted(read) == sorted(epoch_of(order, 0))


@settings(max_examples=200)
@given(size=st.integers(1, 3000), key=st.integers(0, 2**63))
def test_permute_is_a_permutation(size: int, key: int) -> None:
    points = np.arange(size)
    out = permute(points, np.full(size, size), np.full(size, key, dtype=np.uint64))
    assert sorted(out.tolist()) == points.tolist()


def test_permute_looks_uniform() -> None:
    """Over many keys every point goes everywhere about equally often (chi-square, 6 standard deviations)."""
    size, keys = 16, 20_000
    key = np.repeat(hash_words(np.arange(keys)), size)
    out = permute(np.tile(np.arange(size), keys), np.full(size * keys, size), key).reshape(keys, size)
    for point in range(size):
        counts = np.bincount(out[:, point], minlength=size)
        chi_square = ((counts - keys / size) ** 2 / (keys / size)).sum()
        assert chi_square < (size - 1) + 6 * np.sqrt(2 * (size - 1))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    order = Order(counts=[100] * 5, seed=1, lanes=4, window=16)
    other = Order(counts=[100] * 5, seed=2, lanes=4, window=16)
    assert epoch_of(order, 0) != epoch_of(order, 1)
    assert epoch_of(order, 0) != epoch_of(other, 0)


def test_the_remainder_is_not_the_same_pairs_in_every_epoch() -> None:
    for window in (2, 1000):  # many windows; one window over everything
        order = Order(counts=[5, 6], seed=0, lanes=8, window=window)
        left_out = {number for epoch in range(40) for number in set(range(11)) - set(epoch_of(order, epoch))}
        assert left_out == set(range(11))


def test_golden_order() -> None:
    """If this fails, every run in the world would resume on other pairs than it stopped at: do not change the numbers."""
    order = Order(counts=[7, 5, 9, 11], seed=42, lanes=4, window=3)
    assert numbers(order, order.global_batch(8, 8, np.arange(8))) == GOLDEN_MANY_WINDOWS
    order = Order(counts=[7, 5, 9, 11], seed=42, lanes=4, window=100)
    assert numbers(order, order.global_batch(40, 8, np.arange(8))) == GOLDEN_ONE_WINDOW


GOLDEN_MANY_WINDOWS = [19, 17, 11, 1, 22, 23, 29, 31]
GOLDEN_ONE_WINDOW = [29, 20, 28, 10, 1, 17, 19, 22]


def test_more_lanes_than_pairs_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.lanes.*at most 3"):
        Order(counts=[2, 1], seed=0, lanes=4, window=10)
