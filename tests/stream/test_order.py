"""The order visits each pair once an epoch and is a pure function of the position.

It does not depend on the number of ranks. Golden values catch an accidental change.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_train.errors import UserError
from align_train.stream.order import Order, lane_pattern
from align_train.stream.permutation import hash_words, permute
from align_train.stream.source_order import Visits
from tests.support.orders import orders


def indices(order: Order, visits: Visits) -> list[int]:
    """The index of each visited pair among all pairs, in the manifest's order."""
    starts = np.concatenate([[0], np.cumsum(order.counts)])
    assert (visits.pair >= 0).all()
    assert (visits.pair < order.counts[visits.shard]).all()
    return [int(index) for index in starts[visits.shard] + visits.pair]


def epoch_of(order: Order, epoch: int) -> list[int]:
    """The indices of the pairs in an epoch of the first source, lane by lane."""
    (source, *_) = order.sources
    lane = np.repeat(np.arange(source.lanes), source.lane_length)
    position = np.tile(np.arange(source.lane_length), source.lanes) + epoch * source.lane_length
    return indices(order, source.at(lane, position))


@given(order=orders, epoch=st.integers(0, 1000))
def test_an_epoch_has_each_pair_at_most_once_and_leaves_out_fewer_than_the_lanes(
    order: Order, epoch: int
) -> None:
    seen = epoch_of(order, epoch)
    assert len(set(seen)) == len(seen) == order.sources[0].epoch_pairs
    assert 0 <= order.counts.sum() - order.sources[0].epoch_pairs < order.lanes


@given(order=orders, per_lane=st.integers(1, 5), step=st.integers(0, 500), data=st.data())
def test_a_global_batch_does_not_depend_on_the_split_or_on_earlier_reads(
    order: Order, per_lane: int, step: int, data: st.DataObject
) -> None:
    size = per_lane * order.lanes
    whole = indices(order, order.global_batch(step * size, size, np.arange(size)))
    world = data.draw(
        st.sampled_from([world for world in (1, 2, 4, 8, 16) if order.lanes % world == 0])
    )
    afresh = Order(counts=order.counts, seed=order.seed, lanes=order.lanes, window=order.window)
    parts = np.arange(size).reshape(world, -1)
    assert [
        n for part in parts for n in indices(afresh, afresh.global_batch(step * size, size, part))
    ] == whole


@settings(max_examples=20, deadline=None)
@given(order=orders)
def test_global_batches_follow_each_other_without_a_gap(order: Order) -> None:
    """Reading one epoch batch by batch gives the pairs of that epoch."""
    size = order.lanes
    read = [
        n
        for step in range(order.sources[0].lane_length)
        for n in indices(order, order.global_batch(step * size, size, np.arange(size)))
    ]
    assert sorted(read) == sorted(epoch_of(order, 0))


@settings(max_examples=200)
@given(size=st.integers(1, 3000), key=st.integers(0, 2**63))
def test_permute_is_a_permutation(size: int, key: int) -> None:
    points = np.arange(size)
    keys = np.full(size, key, dtype=np.uint64)
    out = permute(points, np.full(size, size), keys)
    assert sorted(out.tolist()) == points.tolist()
    assert permute(out, np.full(size, size), keys, backwards=True).tolist() == points.tolist()


def test_permute_looks_uniform() -> None:
    """Over many keys, every point goes to every place about equally often.

    The bound is 6 standard deviations of chi-square.
    """
    size, keys = 16, 20_000
    key = np.repeat(hash_words(np.arange(keys)), size)
    out = permute(np.tile(np.arange(size), keys), np.full(size * keys, size), key).reshape(
        keys, size
    )
    for point in range(size):
        counts = np.bincount(out[:, point], minlength=size)
        chi_square = ((counts - keys / size) ** 2 / (keys / size)).sum()
        assert chi_square < (size - 1) + 6 * np.sqrt(2 * (size - 1))


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    order = Order(counts=[100] * 5, seed=1, lanes=4, window=16)
    other = Order(counts=[100] * 5, seed=2, lanes=4, window=16)
    assert epoch_of(order, 0) != epoch_of(order, 1)
    assert epoch_of(order, 0) != epoch_of(other, 0)


def test_the_remainder_is_other_pairs_in_other_epochs() -> None:
    for window in (2, 1000):  # many windows; one window over everything
        order = Order(counts=[5, 6], seed=0, lanes=8, window=window)
        left_out = {
            index for epoch in range(40) for index in set(range(11)) - set(epoch_of(order, epoch))
        }
        assert left_out == set(range(11))


def test_the_order_equals_its_golden_values() -> None:
    """Never change the golden values.

    If this test fails, every saved run would resume with other pairs than those that follow its
    last step.
    """
    order = Order(counts=[7, 5, 9, 11], seed=42, lanes=4, window=3)
    assert indices(order, order.global_batch(8, 8, np.arange(8))) == GOLDEN_MANY_WINDOWS
    order = Order(counts=[7, 5, 9, 11], seed=42, lanes=4, window=100)
    assert indices(order, order.global_batch(40, 8, np.arange(8))) == GOLDEN_ONE_WINDOW

    order = Order(
        counts=[7, 5, 9, 11, 40], seed=42, lanes=8, window=3, sources=[4, 1], weights=[3, 1]
    )
    assert indices(order, order.global_batch(40, 16, np.arange(16))) == GOLDEN_TWO_SOURCES


GOLDEN_MANY_WINDOWS = [19, 17, 11, 1, 22, 23, 29, 31]


GOLDEN_ONE_WINDOW = [29, 20, 28, 10, 1, 17, 19, 22]


GOLDEN_TWO_SOURCES = [10, 11, 24, 26, 61, 63, 29, 30, 14, 15, 20, 19, 40, 44, 3, 5]


@given(order=orders, data=st.data())
def test_find_gives_the_position_of_a_pair(order: Order, data: st.DataObject) -> None:
    epoch = data.draw(st.integers(0, 50))
    shard = data.draw(st.sampled_from(np.flatnonzero(order.counts).tolist()))
    pair = data.draw(st.integers(0, int(order.counts[shard]) - 1))
    index = int(order.counts[:shard].sum()) + pair
    found = order.find(shard, pair, epoch)
    if found is None:  # the remainder
        assert index not in epoch_of(order, epoch)
    else:
        visits = order.at(np.array([found[0]]), np.array([found[1]]))
        assert (visits.epoch[0], visits.shard[0], visits.pair[0]) == (epoch, shard, pair)


@given(order=orders, epoch=st.integers(0, 50), data=st.data())
def test_a_window_names_the_shards_that_its_positions_are_drawn_from(
    order: Order, epoch: int, data: st.DataObject
) -> None:
    lane = data.draw(st.integers(0, order.lanes - 1))
    length = order.sources[0].lane_length
    position = data.draw(st.integers(epoch * length, (epoch + 1) * length - 1))
    window = order.window_at(lane, position)
    assert epoch * length <= window.first <= position < window.last <= (epoch + 1) * length
    positions = np.arange(window.first, window.last)
    visits = order.at(np.full_like(positions, lane), positions)
    if order.sources[0].whole_epoch:
        assert set(window.shards) == set(np.flatnonzero(order.counts).tolist())
    else:
        assert set(window.shards) == set(visits.shard.tolist())
    following = order.window_at(lane, window.last)
    assert following.first == window.last


mixtures = st.builds(
    lambda first, second, weights, factor, window, seed: Order(
        counts=[*first, *second],
        seed=seed,
        lanes=sum(weights) * factor,
        window=window,
        sources=[len(first), len(second)],
        weights=weights,
    ),
    first=st.lists(st.integers(1, 60), min_size=1, max_size=9).filter(
        lambda counts: sum(counts) >= 40
    ),
    second=st.lists(st.integers(1, 60), min_size=1, max_size=9).filter(
        lambda counts: sum(counts) >= 40
    ),
    weights=st.sampled_from([(3, 1), (1, 1), (2, 3), (1, 4), (6, 2)]),
    factor=st.sampled_from([1, 2, 4]),
    window=st.integers(1, 50),
    seed=st.integers(0, 2**62),
)


@given(order=mixtures, per_lane=st.integers(1, 4), step=st.integers(0, 300), data=st.data())
def test_two_sources_share_every_batch_on_every_rank_exactly(
    order: Order, per_lane: int, step: int, data: st.DataObject
) -> None:
    size = per_lane * order.lanes
    world = data.draw(
        st.sampled_from([w for w in (1, 2, 4) if order.lanes // len(order.pattern) % w == 0])
    )
    visits = order.global_batch(step * size, size, np.arange(size))
    second = (visits.shard >= order.sources[1].first_shard).reshape(world, -1)
    assert (second.mean(axis=1) == (order.pattern == 1).mean()).all()


@settings(max_examples=10)
@given(order=mixtures)
def test_each_source_has_its_own_epochs_with_each_pair_once(order: Order) -> None:
    """The test reads batches until the longer epoch is over.

    Then the first epoch of each source is whole, and each took its own time.
    """
    longest = max(source.lane_length for source in order.sources)
    visits = [
        order.global_batch(step * order.lanes, order.lanes, np.arange(order.lanes))
        for step in range(longest)
    ]
    for source in order.sources:
        seen = [
            (shard, pair)
            for batch in visits
            for epoch, shard, pair in zip(
                batch.epoch.tolist(), batch.shard.tolist(), batch.pair.tolist(), strict=True
            )
            if epoch == 0 and order.source_of(shard) is source
        ]
        assert len(seen) == len(set(seen)) == source.epoch_pairs > source.pairs - source.lanes


@given(order=orders, data=st.data(), epoch=st.integers(0, 20))
def test_a_vanished_shard_moves_only_its_own_pairs(
    order: Order, data: st.DataObject, epoch: int
) -> None:
    there = np.flatnonzero(order.counts).tolist()
    gone = data.draw(st.sets(st.sampled_from(there), max_size=max(0, len(there) - 1)))
    without = Order(
        counts=order.counts, seed=order.seed, lanes=order.lanes, window=order.window, dropped=gone
    )
    position = np.arange(
        epoch * order.sources[0].lane_length, (epoch + 1) * order.sources[0].lane_length
    )
    lane = np.full_like(position, data.draw(st.integers(0, order.lanes - 1)))
    before, after = order.at(lane, position), without.at(lane, position)
    kept = ~np.isin(before.shard, list(gone))
    assert not np.isin(after.shard, list(gone)).any()
    assert (after.shard[kept] == before.shard[kept]).all() and (
        after.pair[kept] == before.pair[kept]
    ).all()
    assert (after.pair < order.counts[after.shard]).all()
    assert set(after.shard.tolist()) <= {
        shard
        for position_ in {int(p) for p in position}
        for shard in without.window_at(int(lane[0]), position_).shards
    }


def test_lanes_divide_by_the_weights_or_are_refused() -> None:
    assert lane_pattern([3, 1]).tolist() == [0, 0, 1, 0]
    assert lane_pattern([2, 3]).tolist() == [1, 0, 1, 0, 1]
    assert lane_pattern([6, 2]).tolist() == lane_pattern([3, 1]).tolist()
    with pytest.raises(
        UserError,
        match=r"data\.lanes=6 cannot be shared out as data\.weights=\[3, 1\]; take a multiple of 4",
    ):
        Order(counts=[50, 50], seed=0, lanes=6, window=9, sources=[1, 1], weights=[3, 1])
    with pytest.raises(UserError, match=r"data\.weights=\[3, 0\]"):
        lane_pattern([3, 0])


def test_more_lanes_than_pairs_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.lanes.*at most 3"):
        Order(counts=[2, 1], seed=0, lanes=4, window=10)
