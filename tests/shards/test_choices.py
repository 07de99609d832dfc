"""A manifest keeps the choices that are written with it, and says if they are not beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from align_train.shards.rates import Rates, rounded, visits_of
from align_train.shards.row import Shard

CACHE = ShardCache()

_RATES = st.sampled_from([0, 0, 0.001, 0.25, 1, 2.5, 1024])


def manifest_of(folder: Path, counts: list[int]) -> Manifest:
    """A manifest of tars that nobody opens."""
    names = [f"{shard:05d}.tar" for shard in range(len(counts))]
    shards = [
        Shard(str(folder / name), pairs, 10_240) for name, pairs in zip(names, counts, strict=True)
    ]
    return Manifest(tuple(shards), "tars")


def read(folder: Path) -> Manifest:
    return read_manifest(str(folder / MANIFEST_NAME), cache=CACHE)


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 30), min_size=1, max_size=4), data=st.data())
def test_a_choice_is_one_among_the_pairs_that_an_earlier_selection_keeps(
    counts: list[int], data: st.DataObject
) -> None:
    firsts = [
        np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool) for n in counts
    ]
    # A manifest that lists no pairs is refused.
    firsts[0] = np.append(firsts[0], True)
    counts[0] += 1
    by_rates = data.draw(st.booleans())
    of_pair = _RATES if by_rates else st.booleans()
    seconds = [
        np.array(
            data.draw(st.lists(of_pair, min_size=int(first.sum()), max_size=int(first.sum()))),
            dtype=float if by_rates else bool,
        )
        for first in firsts
    ]
    seconds[0][0] = 1

    with TemporaryDirectory() as name:
        folder = Path(name)
        every = manifest_of(folder / "tars", counts)
        every.write(folder / "first" / MANIFEST_NAME, kept=firsts)
        narrower = read(folder / "first")
        assert [shard.pairs for shard in narrower.shards] == [int(kept.sum()) for kept in firsts]

        choice: dict[str, Any] = {"rates" if by_rates else "kept": seconds}
        narrower.write(folder / "second" / MANIFEST_NAME, **choice, cache=CACHE)
        written = read(folder / "second")

        assert [shard.url for shard in written.shards] == [shard.url for shard in every.shards]
        same = not by_rates and all(second.all() for second in seconds)
        assert (written.identity == narrower.identity) == same
        assert every.identity not in (narrower.identity, written.identity)
        for row, first, second in zip(written.shards, firsts, seconds, strict=True):
            chosen = np.zeros(len(first), dtype=second.dtype)
            chosen[first] = second
            assert row.selection is not None and row.selection.of == len(first)
            assert row.selection.read(CACHE).tolist() == (chosen > 0).tolist()
            if not by_rates:
                assert row.pairs == chosen.sum()
                continue
            assert isinstance(row.selection, Rates) and row.selection.used == (chosen > 0).sum()
            assert row.selection.rates(CACHE).tolist() == rounded(chosen).tolist()
            assert row.pairs == visits_of(rounded(chosen))

        once = written.once()
        assert once.pairs == sum((second > 0).sum() for second in seconds)
        if by_rates:
            with pytest.raises(UserError, match=r"00000.tar: has rates, which a choice of pairs"):
                once.write(folder / "third" / MANIFEST_NAME, **choice, cache=CACHE)
            assert not (folder / "third" / MANIFEST_NAME).exists()


ALL = np.ones(4, dtype=bool)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"kept": [ALL, ALL[:3]]}, "00001.tar: 3 choices for 4 pairs"),
        ({"kept": [ALL]}, "shorter"),
        ({"rates": [ALL * 1.0] * 3}, "longer"),
        ({"rates": [ALL * 0.5, ALL * np.nan]}, "expected numbers from 0 to 1024"),
        ({"rates": [ALL * 0.5, ALL * -1.0]}, "expected numbers from 0 to 1024"),
        ({"rates": [ALL * 1025.0, ALL * 1.0]}, "expected numbers from 0 to 1024"),
    ],
)
def test_choices_that_do_not_fit_write_nothing(
    choices: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        manifest_of(tmp_path, [4, 4]).write(tmp_path / "out" / MANIFEST_NAME, **choices)
    assert not list((tmp_path / "out").iterdir())


def test_a_selection_is_written_only_by_who_can_read_it(tmp_path: Path) -> None:
    manifest_of(tmp_path, [4]).write(tmp_path / MANIFEST_NAME, kept=[ALL])
    with pytest.raises(ValueError, match="a selection is written where it is made"):
        read(tmp_path).write(tmp_path / "copy.jsonl")
    with pytest.raises(ValueError, match="chosen from before"):
        read(tmp_path).write(tmp_path / "copy.jsonl", kept=[ALL])


def _cut(folder: Path) -> None:
    for file in folder.glob("manifest.[sr]*"):
        file.write_bytes(file.read_bytes()[:-1])


def _remove(folder: Path) -> None:
    for file in folder.glob("manifest.[sr]*"):
        file.unlink()


def _of_another(folder: Path) -> None:
    for file in folder.glob("manifest.[sr]*"):
        file.write_bytes(bytes(file.stat().st_size))


def _say(**fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        rows = [json.loads(line) for line in (folder / MANIFEST_NAME).read_text().splitlines()]
        rows[1] |= fields
        (folder / MANIFEST_NAME).write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    return change


OF_EITHER = pytest.mark.parametrize(
    ("change", "words"),
    [
        (_remove, r"manifest\.\w+: cannot be read \(No such file.*belongs beside its manifest"),
        (_cut, r"manifest\.\w+: has \d+ bytes, its manifest needs \d+; bring the whole file back"),
        (_of_another, "is not what the manifest was made with; make it anew"),
        (_say(at=2**40), r"its manifest needs 1,099,\S+; bring"),
        (_say(at=-1), r"manifest.jsonl, line 2: expected \{shard, pairs, bytes\}"),
    ],
)


@OF_EITHER
@pytest.mark.parametrize("choice", [{"kept": [ALL, ALL]}, {"rates": [ALL * 0.5, ALL * 1.0]}])
def test_choices_that_are_not_those_of_the_manifest_are_refused(
    choice: dict[str, Any], change: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    manifest_of(tmp_path, [4, 4]).write(tmp_path / MANIFEST_NAME, **choice)
    change(tmp_path)
    with pytest.raises(UserError, match=words):
        read_choices(tmp_path)


@pytest.mark.parametrize("wrong", [{"pairs": 3}, {"used": 3}])
def test_rates_that_give_other_visits_than_the_manifest_says_are_refused(
    wrong: dict[str, int], tmp_path: Path
) -> None:
    manifest_of(tmp_path, [4, 4]).write(tmp_path / MANIFEST_NAME, rates=[ALL * 0.5, ALL * 1.0])
    read_choices(tmp_path)
    _say(**wrong)(tmp_path)
    with pytest.raises(UserError, match="the rates at 8 are not those of the manifest: expected"):
        read_choices(tmp_path)


def read_choices(folder: Path) -> None:
    for shard in read(folder).shards:
        assert shard.selection is not None
        shard.selection.read(CACHE)
