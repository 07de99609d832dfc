"""Of images near each other one stays, the best: what a plain loop says, in cells of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.repeats import greedy
from data.repeats.cells import _rounded, make_cells
from data.repeats.greedy import STAYS, find_keepers
from tests.support.repeats import Floats, beside, ranked, units


def plainly(embeddings: Floats, threshold: float, scored: int) -> list[int]:
    """The keepers by a loop over the images."""
    rows = embeddings.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    keepers: list[int] = []
    for rank, row in enumerate(rows):
        near = [
            other
            for other in range(min(rank, scored))
            if keepers[other] == STAYS and row @ rows[other] >= threshold
        ]
        keepers.append(near[0] if near else int(STAYS))
    return keepers


@settings(max_examples=50)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 60),
    wave=st.integers(1, 8),
    most=st.integers(1, 40),
    block=st.integers(1, 9),
    cells=st.integers(1, 5),
)
def test_who_stays_is_what_a_plain_loop_says(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    count: int,
    wave: int,
    most: int,
    block: int,
    cells: int,
) -> None:
    """In waves and blocks of any size, also with more pairs than a wave takes; all share cells."""
    random = np.random.default_rng(seed)
    embeddings = units(8, seed)[random.integers(0, 8, count)]
    embeddings = embeddings + 0.12 * units(count, seed + 1)
    scored = int(random.integers(0, count + 1))
    rows = ranked(embeddings, tmp_path_factory.getbasetemp() / "rows", scored)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(greedy, "_FIRST_WAVE", wave)
        patch.setattr(greedy, "_MOST_PAIRS", most)
        patch.setattr(greedy, "_ROWS", block)
        patch.setattr(greedy, "_OTHERS", block + 1)
        sorted_in = make_cells(rows, min(cells, count), probes=5)
        keepers = find_keepers(rows, sorted_in, 0.97)
    assert keepers.tolist() == plainly(embeddings, 0.97, scored)


@pytest.mark.parametrize(
    ("order", "stay"),
    [("abc", "ac"), ("acb", "ac"), ("bac", "b"), ("cba", "ca"), ("bca", "b"), ("cab", "ca")],
)
def test_near_a_near_one_is_not_near(order: str, stay: str, tmp_path: Path) -> None:
    """A near B near C, but A not near C: the best decides, and each that goes has a keeper."""
    b = units(1)[0]
    a = beside(b, 0.96, seed=1)
    of = {"a": a, "b": b, "c": 2 * np.float32(0.96) * b - a}  # on the other side of B
    assert a @ of["c"] < 0.9

    rows = ranked(np.stack([of[name] for name in order]), tmp_path / "rows")
    keepers = find_keepers(rows, make_cells(rows, 1, 1), 0.95)
    assert "".join(np.array(list(order))[keepers == STAYS]) == stay


@pytest.mark.parametrize(
    ("count", "equal", "cells"),
    [(5, 0, 64), (1, 0, 1), (600, 360, 64), (600, 600, 16)],
)
def test_odd_cells(count: int, equal: int, cells: int, tmp_path: Path) -> None:
    """Fewer images than cells, and more equal ones than a cell should hold."""
    embeddings = units(count)
    embeddings[:equal] = embeddings[0]
    rows = ranked(embeddings, tmp_path / "rows")
    sorted_in = make_cells(rows, min(cells, count), probes=2)
    assert set(sorted_in.ranks.tolist()) == set(range(count))

    keepers = find_keepers(rows, sorted_in, 0.95)
    assert (keepers != STAYS).sum() == max(equal - 1, 0)
    assert (keepers[1:equal] == 0).all()


def test_a_cell_that_takes_longer_than_all_others_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("data.repeats.cells.ALL_COMPARED", 250)
    embeddings = units(600)
    for equal in (0, 300):
        embeddings[:equal] = embeddings[0]
        make_cells(ranked(embeddings, tmp_path / f"{equal}"), 20, 1).say_large(600)
        assert capsys.readouterr().out.startswith("the largest of ") == bool(equal)


def test_a_second_cell_finds_most_of_what_lies_across_a_border(tmp_path: Path) -> None:
    originals = units(2000)
    rows = ranked(np.concatenate([originals, beside(originals, 0.97, 1)]), tmp_path / "rows")
    found = []
    for probes in (1, 2, 4):
        keepers = find_keepers(rows, make_cells(rows, 40, probes), 0.95)
        assert (keepers[:2000] == STAYS).all()
        gone = keepers[2000:] != STAYS
        assert (keepers[2000:][gone] == np.arange(2000)[gone]).all()
        found.append(gone.mean())
    # Directions at random, without any groups, are the hardest case.
    assert found[0] > 0.6 and found[1] > 0.9 and found[2] > 0.985, found


def test_cells_do_not_depend_on_blocks_and_near_equal_images_share_them(tmp_path: Path) -> None:
    """Cosines are exact, so no order of the sums can change them: blocks, threads, shards."""
    embeddings = units(3000)
    embeddings[:1800] = embeddings[0] + 1e-4 * units(1800, seed=1)
    rows = ranked(embeddings, tmp_path / "rows")
    found = []
    for block in (4096, 7):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("data.repeats.cells._BLOCK", block)
            found.append(make_cells(rows, 50, probes=2))
    assert np.array_equal(found[0].ranks, found[1].ranks)
    assert np.array_equal(found[0].starts, found[1].starts)

    rounded = _rounded(rows.take(np.arange(3000)))
    exact = rounded.astype(np.float64) @ rounded[:50].T.astype(np.float64)
    assert np.array_equal(rounded @ rounded[:50].T, exact)
    assert (find_keepers(rows, found[0], 0.95)[1:1800] == 0).all()
