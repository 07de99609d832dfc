"""Pairs come as often as their rates say, on any number of ranks and workers, after any resume."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import chain
from math import floor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_train.commands.show import _print_table, _Shown, _visits
from align_train.commands.twice_in_batch import twice_in_batch
from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from align_train.shards.rates import RateArray, Rates, rounded, units_of, visits_of
from align_train.shards.resolve import resolve
from align_train.shards.row import Shard
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.loader import TrainingLoader
from align_train.stream.order import Order
from align_train.stream.replacement import Gone
from align_train.stream.shard_visits import ShardVisits
from align_train.stream.source_order import Visits
from tests.support.commands import data_module
from tests.support.shards import TXT

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

rates_of_a_shard = st.lists(
    st.one_of(st.floats(0.0005, 1), st.floats(1, 7), st.sampled_from([0.25, 1.0, 2.0, 1e-7])),
    min_size=1,
    max_size=60,
).map(lambda values: rounded(np.array(values)))

seeds = st.integers(0, 2**62)


def scaled(rates: RateArray) -> list[Fraction]:
    """The rates, scaled so that they sum up to the shard's visits: exactly."""
    units = units_of(rates).tolist()
    return [Fraction(unit * visits_of(rates), sum(units) or 1) for unit in units]


def seen_in(visits: ShardVisits, epoch: int) -> Counter[int]:
    return Counter(visits.pairs_at(epoch, np.arange(visits.visits)).tolist())


@settings(max_examples=40, deadline=None)
@given(rates=rates_of_a_shard, seed=seeds, shard=st.integers(0, 99_999), epoch=st.integers(0, 999))
def test_an_epoch_has_each_pair_its_rate_rounded_down_or_up(
    rates: RateArray, seed: int, shard: int, epoch: int
) -> None:
    visits = ShardVisits(rates, seed=seed, shard=shard)
    total = sum(Fraction(float(rate)) for rate in rates)
    assert visits.visits == max(1, floor(total + Fraction(1, 2)))
    seen = seen_in(visits, epoch)
    assert sum(seen.values()) == visits.visits
    for pair, rate in enumerate(scaled(rates)):
        assert rate - 1 < seen[pair] < rate + 1
        slots = visits.slots_of(epoch, pair)
        assert visits.pairs_at(epoch, np.array(slots, dtype=np.int64)).tolist() == [pair] * len(
            slots
        )
        assert len(slots) == seen[pair]


@settings(max_examples=15, deadline=None)
@given(rates=rates_of_a_shard, seed=seeds)
def test_over_many_epochs_visits_stay_near_epochs_times_rate(rates: RateArray, seed: int) -> None:
    """Chance would be off by 8 at a rate of 1/2 in 256 epochs: one standard deviation."""
    visits = ShardVisits(rates, seed=seed, shard=3)
    expected = scaled(rates)
    total: Counter[int] = Counter()
    for epoch in range(256):
        total += seen_in(visits, epoch)
        for pair, rate in enumerate(expected):
            assert abs(total[pair] - (epoch + 1) * rate) < 4


def test_the_visits_equal_their_golden_values() -> None:
    """Never change them: every saved run on rates would resume with other pairs."""
    visits = ShardVisits(
        rounded(np.array([0.3, 0.4, 1.5, 0.01, 0.7, 0.2, 0.6, 0.3])), seed=42, shard=7
    )
    assert [visits.pairs_at(epoch, np.arange(4)).tolist() for epoch in (0, 1, 2, 10**6)] == GOLDEN


GOLDEN = [[1, 2, 4, 6], [5, 2, 2, 7], [2, 2, 4, 6], [1, 2, 4, 6]]


def test_the_largest_shards_fit_64_bits() -> None:
    """A million pairs, or rates of 1,024: the points are those of exact arithmetic."""
    for rates in (np.full(1_000_000, 0.7), np.full(4_000, 1024.0), np.full(1_000_000, 2e-7)):
        visits = ShardVisits(rounded(rates), seed=1, shard=0)
        last = visits.visits - 1
        offset = visits._offset(5)
        point = (last * visits._length + offset) // visits.visits
        place = int(np.searchsorted(visits._ends, point, side="right"))
        assert visits.pairs_at(5, np.array([last]))[0] == visits._pairs[place]
        assert visits._ends[-1] == sum(map(int, units_of(rounded(rates)).tolist()))


class Rated:
    """An order over shards with rates, of one source or two."""

    def __init__(
        self, sources: list[list[RateArray]], weights: list[int], seed: int, lanes: int, window: int
    ) -> None:
        self._arguments = (sources, weights, seed, lanes, window)
        self.shards = [rates for shards in sources for rates in shards]
        self.order = Order(
            counts=[visits_of(rates) for rates in self.shards],
            seed=seed,
            lanes=lanes,
            window=window,
            sources=[len(shards) for shards in sources],
            weights=weights[: len(sources)],
        )
        self.visits_of: list[ShardVisits | None] = []
        for shard, rates in enumerate(self.shards):
            visits = ShardVisits(rates, seed=seed, shard=shard) if len(rates) else None
            self.visits_of.append(visits)

    def afresh(self) -> Rated:
        """The same, as a process that has just begun finds it."""
        return Rated(*self._arguments)

    def of_shard(self, shard: int) -> ShardVisits:
        """The visits of a shard; the order asks for none of a shard without rates above 0."""
        visits = self.visits_of[shard]
        assert visits is not None
        return visits

    def named(self, visits: Visits) -> list[tuple[int, int, int]]:
        """(epoch, shard, pair) of each visit."""
        rows = zip(visits.epoch.tolist(), visits.shard.tolist(), visits.pair.tolist(), strict=True)
        named = []
        for epoch, shard, slot in rows:
            pair = int(self.of_shard(shard).pairs_at(epoch, np.array([slot]))[0])
            named.append((epoch, shard, pair))
        return named


source_of_shards = st.lists(
    st.one_of(rates_of_a_shard, st.just(rounded(np.zeros(0)))), min_size=1, max_size=5
).filter(lambda shards: sum(map(visits_of, shards)) >= 16)

rated = st.builds(
    Rated,
    sources=st.lists(source_of_shards, min_size=1, max_size=2),
    weights=st.sampled_from([[1, 1], [1, 3]]),
    seed=seeds,
    lanes=st.sampled_from([4, 8, 16]),
    window=st.integers(1, 50),
)


@settings(max_examples=15, deadline=None)
@given(data=rated, epoch=st.integers(0, 99))
def test_an_epoch_of_the_order_has_the_pairs_by_their_rates_but_for_the_remainder(
    data: Rated, epoch: int
) -> None:
    for source in data.order.sources:
        lane = np.repeat(np.arange(source.lanes), source.lane_length)
        position = np.tile(np.arange(source.lane_length), source.lanes) + epoch * source.lane_length
        seen = Counter(data.named(source.at(lane, position)))

        left_out = 0
        first = source.first_shard
        for shard in range(first, first + len(source.counts)):
            for pair, rate in enumerate(scaled(data.shards[shard])):
                slots = data.of_shard(shard).slots_of(epoch, pair)
                assert rate - 1 < len(slots) < rate + 1
                # `find` names each visit's place, and None for those of the remainder.
                places = [data.order.find(shard, slot, epoch) for slot in slots]
                there = [place for place in places if place is not None]
                left_out += len(slots) - len(there)
                assert seen[epoch, shard, pair] == len(there) == len(set(there))
        assert left_out == source.pairs - source.epoch_pairs < source.lanes


@settings(max_examples=40, deadline=None)
@given(data=rated, per_lane=st.integers(1, 5), step=st.integers(0, 500), draw=st.data())
def test_a_batch_by_rates_is_the_same_on_every_world_after_a_resume_and_by_show(
    data: Rated, per_lane: int, step: int, draw: st.DataObject
) -> None:
    order = data.order
    size = per_lane * order.lanes
    whole = data.named(order.global_batch(step * size, size, np.arange(size)))
    world = draw.draw(st.sampled_from([world for world in (1, 2, 4) if order.lanes % world == 0]))

    parts: list[tuple[int, int, int]] = []
    for slots in np.arange(size).reshape(world, -1):
        afresh = data.afresh()
        parts += afresh.named(afresh.order.global_batch(step * size, size, slots))
    assert parts == whole

    # `show key=…` finds each pair of the batch in its place.
    slot = draw.draw(st.integers(0, size - 1))
    epoch, shard, pair = whole[slot]
    places = [
        order.find(shard, visit, epoch) for visit in data.of_shard(shard).slots_of(epoch, pair)
    ]
    assert (slot // per_lane, step * per_lane + slot % per_lane) in places


@settings(max_examples=15, deadline=None)
@given(data=rated, epoch=st.integers(0, 99), draw=st.data())
def test_a_dropped_shard_moves_no_other_visit(data: Rated, epoch: int, draw: st.DataObject) -> None:
    """Its visits go to shards with rates of the same source."""
    source = draw.draw(st.sampled_from(data.order.sources))
    there = np.flatnonzero(source.counts).tolist()
    gone = draw.draw(st.sampled_from(there)) + source.first_shard
    lane = np.repeat(np.arange(source.lanes), source.lane_length)
    position = np.tile(np.arange(source.lane_length), source.lanes) + epoch * source.lane_length
    before = data.named(source.at(lane, position))
    if len(there) == 1:
        with pytest.raises(UserError, match="every shard has vanished"):
            data.order.replace(dropped=[gone])
        return

    after_source = data.order.replace(dropped=[gone]).source_of(gone)
    for old, new in zip(before, data.named(after_source.at(lane, position)), strict=True):
        assert new == old if old[1] != gone else new[1] != gone
        assert data.order.source_of(new[1]) is source


# on shards


def some_rates(pairs: int, shard: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Rates of many kinds; those of one shard sum up to less than 1, and of another to 0."""
    if shard >= 2:
        return np.full(pairs, 0.002 if shard == 2 else 0.0)
    return np.random.default_rng(shard).choice([0, 0.03, 0.5, 1, 2.5], size=pairs)


@pytest.fixture
def by_rates(demo: Path, tmp_path: Path) -> Path:
    """A manifest of the demo's shards with rates."""
    manifest = resolve(str(demo / "train"), caption=TXT)
    path = tmp_path / "rated" / MANIFEST_NAME
    path.parent.mkdir()
    rates = [some_rates(shard.pairs, index) for index, shard in enumerate(manifest.shards)]
    manifest.write(path, rates=rates, cache=ShardCache())
    return path


def expected_of(manifest: Manifest, demo: Path) -> dict[str, Fraction]:
    """Key -> visits an epoch."""
    return expected_of_source(manifest.shards, demo)


def expected_of_source(shards: Sequence[Shard], demo: Path) -> dict[str, Fraction]:
    every = resolve(str(demo / "train"), caption=TXT)
    expected: dict[str, Fraction] = {}
    for shard, row in enumerate(every.shards):
        rates = rounded(some_rates(row.pairs, shard))
        assert shards[shard].pairs == visits_of(rates)
        for key, rate in zip(sorted_keys(Path(row.url)), scaled(rates), strict=True):
            expected[key] = rate
    return expected


def sorted_keys(tar: Path) -> list[str]:
    with tarfile.open(tar) as file:
        names = {member.name.partition(".")[0] for member in file}
    return [f"{tar.stem}/{name}" for name in sorted(names)]


def keys_of(data: PairsDataModule, steps: range, world: int, workers: int) -> list[list[str]]:
    """The keys of batches, of which each of `world` loaders makes its part."""
    share = data.batch_size // world
    batches: list[list[str]] = [[] for _ in steps]
    for rank in range(world):
        pieces = data.training_pieces()
        pieces.start = pieces.start.after(steps.start, data.batch_size)
        slots = range(rank * share, (rank + 1) * share)
        loader = TrainingLoader(pieces=pieces, slots=slots, workers=workers, max_tokens=16)
        try:
            for batch in batches:
                batch += next(loader).keys
        finally:
            loader.close()
    return batches


def test_shards_with_rates_are_read_so_by_any_ranks_and_workers_and_found(
    by_rates: Path, demo: Path
) -> None:
    data = data_module(str(by_rates), demo / "tokenizer", window=16)
    expected = expected_of(data.manifest, demo)
    steps = range(2 * data.stretch.order.sources[0].epoch_pairs // data.batch_size)
    batches = keys_of(data, steps, world=1, workers=0)

    # Two epochs, but for a remainder of fewer than a batch, and of fewer than the lanes in each.
    seen = Counter(key for batch in batches for key in batch)
    assert set(seen) == {key for key, rate in expected.items() if rate} & set(seen)
    missing = 0.0
    for key, rate in expected.items():
        assert seen[key] < 2 * rate + 2
        missing += max(0.0, float(2 * rate - 2 - seen[key]))
    assert missing <= data.batch_size + 2 * data.lanes

    middle = range(5, 9)
    assert keys_of(data, middle, world=2, workers=2) == batches[5:9]
    assert keys_of(data, middle, world=8, workers=0) == batches[5:9]

    pieces = data.training_pieces()
    for shard, row in enumerate(data.manifest.shards):
        reader = pieces.pairs.reader(shard)
        assert isinstance(row.selection, Rates) and len(reader) == row.selection.used
        for pair in range(0, len(reader), 9):
            places = [
                (step - 1, slot) for step, _, slot in _visits(pieces, shard, pair, 0, len(steps))
            ]
            key = reader.key(pair)
            assert [batches[step][slot] for step, slot in places] == [key] * seen[key]
            assert len(set(places)) == seen[key]


def test_a_vanished_shard_is_replaced_by_pairs_with_rates(by_rates: Path, demo: Path) -> None:
    data = data_module(str(by_rates), demo / "tokenizer", window=64)
    before = keys_of(data, range(6), world=1, workers=0)
    name = Path(data.manifest.shards[1].name).stem
    data.stretch.order = data.stretch.order.replace(dropped=[1])
    after = keys_of(data, range(6), world=1, workers=0)
    expected = expected_of(data.manifest, demo)
    for old, new in zip(chain(*before), chain(*after), strict=True):
        assert not new.startswith(f"{name}/") and expected[new] > 0
        assert old == new or old.startswith(f"{name}/")


def test_all_but_training_see_each_pair_with_a_rate_once(by_rates: Path, demo: Path) -> None:
    data = data_module(str(by_rates), demo / "tokenizer", held_out=str(by_rates))
    used = sum(rate > 0 for rate in expected_of(data.manifest, demo).values())
    held_out = data.sets.images_of(None)
    assert len(held_out) == len(held_out.about()) == used != data.manifest.pairs
    assert resolve([str(by_rates)], caption=TXT).pairs == used


def test_other_rates_are_other_data(by_rates: Path, demo: Path, tmp_path: Path) -> None:
    manifest = resolve(str(demo / "train"), caption=TXT)
    other = tmp_path / "other" / MANIFEST_NAME
    other.parent.mkdir()
    rates = [some_rates(shard.pairs, index) for index, shard in enumerate(manifest.shards)]
    rates[0][:2] = rates[0][1::-1] if rates[0][0] != rates[0][1] else (0.5, 0.25)
    manifest.write(other, rates=rates, cache=ShardCache())
    first, second = (read_manifest(str(path), cache=ShardCache()) for path in (by_rates, other))
    assert first.identity != second.identity

    file = other.with_name("manifest.rates")
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="is not what the manifest was made with"):
        data_module(str(other), demo / "tokenizer").training_pieces().pairs.reader(0)
    kept = [np.ones(shard.pairs, dtype=bool) for shard in first.once().shards]
    with pytest.raises(UserError, match="has rates, which a choice of pairs would lose"):
        first.once().write(tmp_path / "third.jsonl", kept=kept, cache=ShardCache())


def test_pairs_that_meet_themselves_by_their_rates_are_counted(by_rates: Path, demo: Path) -> None:
    data = data_module(str(by_rates), demo / "tokenizer", batch_size=160)
    (keys,) = keys_of(data, range(1), world=1, workers=0)
    twice = len(keys) - len(set(keys))
    assert twice > 10 and re.match(
        f"about {twice} pairs of step 1 repeat one of their batch", twice_in_batch(data, 9)
    )
    knows = data_module(str(by_rates), demo / "tokenizer", batch_size=160, content_ids=True)
    assert twice_in_batch(knows, 9) == ""


def test_a_bad_pair_is_named_and_replaced_by_one_with_a_rate(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The order names a slot; the record of bad pairs has the pair that the slot shows."""
    folder = tmp_path / "shards"
    shutil.copytree(demo / "train", folder)
    bad = "00000000/00000003"
    tar = folder / "00000000.tar"
    with tarfile.open(tar) as file:
        member = file.getmember("00000003.png")
    content = bytearray(tar.read_bytes())
    content[member.offset_data : member.offset_data + 8] = b"<html>  "
    tar.write_bytes(content)

    manifest = resolve(str(folder), caption=TXT)
    rates = [np.full(shard.pairs, 0.5) for shard in manifest.shards]
    rates[0][:3] = 0
    rates[0][3:5] = 2
    manifest.write(tmp_path / "bad" / MANIFEST_NAME, rates=rates, cache=ShardCache())

    data = data_module(str(tmp_path / "bad"), demo / "tokenizer", batch_size=8)
    pieces = data.training_pieces()
    found = list(_visits(pieces, 0, 0, 0, 64))
    assert len(found) >= 3
    for step, _, slot in found:
        pixels = np.empty(pieces.shape(8), dtype=np.uint8)
        piece = pieces.make(step - 1, range(8), pixels)
        assert not isinstance(piece, Gone)
        (told,) = {(pair.key, pair.replaced_by) for pair in piece.bad_pairs}
        assert told == (bad, "00000000/00000004") and piece.keys[slot] == "00000000/00000004"

        # `show` marks the visits of the bad pair alone, not those of its stand-in.
        _print_table(_Shown(piece.keys, piece.captions, [], piece.bad_pairs), pieces, step - 1)
        rows = capsys.readouterr().out.splitlines()[1:]
        marked = [place for place, row in enumerate(rows) if f"[in place of {bad}: " in row]
        assert marked == sorted(place for at, _, place in found if at == step)


def test_a_source_with_rates_is_mixed_with_one_without(
    by_rates: Path, demo: Path, tmp_path: Path
) -> None:
    shutil.copyfile(demo / "held_out" / "00000000.tar", tmp_path / "plain.tar")
    sources = [str(tmp_path / "plain.tar"), str(by_rates)]
    data = data_module(sources, demo / "tokenizer", weights=[1, 3], window=64)
    expected = expected_of_source(data.manifest.shards[1:], demo)
    rated_source = data.stretch.order.sources[1]
    steps = range(rated_source.lane_length // (data.batch_size // data.lanes))
    batches = keys_of(data, steps, world=1, workers=0)
    seen = Counter(key for batch in batches for key in batch if key in expected)
    assert sum(seen.values()) == len(steps) * data.batch_size * 3 // 4
    assert all(seen[key] < rate + 1 for key, rate in expected.items())
    assert keys_of(data, steps[2:4], world=4, workers=0) == batches[2:4]
