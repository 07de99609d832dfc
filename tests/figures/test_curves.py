"""Curves: which columns are drawn, in how many panels, and what thinning keeps."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from align_train.figures import curves_image
from align_train.figures.curves import Curve, notes_of, read_curves, spell
from align_train.figures.panels import MOST_PANELS, by_group, panels_of
from tests.support.drawn_figures import texts_of

NAMES = st.sampled_from(
    [
        "loss",
        "held_out/loss",
        "lr",
        "grad_norm",
        "pairs_per_second",
        "bad_pairs",
        "mine",
        "eta_seconds",
    ]
    + [f"set_{place}/{metric}" for place in range(9) for metric in ("top1", "mean_rank", "score")]
    + [f"retrieval/{way}/recall@{k}" for way in ("a", "b") for k in (1, 5, 10)]
)
VALUES = st.lists(st.one_of(st.none(), st.floats(-10, 1e4), st.just(float("nan"))), max_size=6)
TABLES = st.dictionaries(NAMES, VALUES, max_size=40)


def rows_of(table: dict[str, list[float | None]]) -> list[dict[str, str]]:
    rows = []
    for step in range(max(map(len, table.values()), default=0)):
        row = {"step": str(step + 1), "pairs_seen": str(8 * step)}
        for name, values in table.items():
            value = values[step] if step < len(values) else None
            row[name] = "" if value is None else repr(value)
        rows.append(row)
    return rows


@given(TABLES)
def test_each_column_is_drawn_once_or_named(table: dict[str, list[float | None]]) -> None:
    curves = read_curves(rows_of(table))
    panels = panels_of(curves)
    drawn = [curve.name for panel in panels for curve in panel.curves]
    assert len(drawn) == len(set(drawn))

    finite = {
        name: [value for value in values if value is not None and np.isfinite(value)]
        for name, values in table.items()
    }
    assert set(drawn) == {name for name, values in finite.items() if len(set(values)) > 1}

    said = "\n".join(notes_of(curves))
    for name, values in finite.items():
        if values and name not in drawn:
            assert f"{name} {spell(values[0])}" in said
    assert all(len(panel.curves) <= 5 for panel in panels)
    assert sum(map(len, by_group(panels).values())) == len(panels)


def many_columns() -> list[dict[str, str]]:
    table: dict[str, list[float | None]] = {
        f"set_{place}/top1": [0.5, place / 31] for place in range(30)
    }
    table |= {"loss": [3.0, 2.0], "grad_norm": [1.0, 900.0], "bad_pairs": [0, 0], "lr": [None, 0.1]}
    return rows_of(table)


def test_the_image_has_at_most_12_panels_and_names_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Figure] = []
    monkeypatch.setattr(curves_image, "save_figure", lambda figure, path: kept.append(figure))
    curves_image.draw_curves(many_columns(), tmp_path / "curves.png", title="many")
    (figure,) = kept
    assert len(figure.axes) == MOST_PANELS == 12

    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles[:2] == ["loss", "gradient norm (log)"]
    said = texts_of(figure)
    assert "constant: bad_pairs 0" in said
    assert "one value: lr 0.1000 (step 2)" in said
    # The note may take several lines.
    rest = said.partition("not drawn here: ")[2].partition("constant: ")[0]
    named = " ".join(rest.split()).split(", ")
    everything = {f"set_{place}/top1" for place in range(30)}
    assert everything == set(titles[2:]) | set(named) and len(titles[2:]) + len(named) == 30


def test_a_run_without_curves_has_no_image(tmp_path: Path) -> None:
    curves_image.draw_curves(rows_of({"loss": [1.0]}), tmp_path / "curves.png", title="one row")
    curves_image.draw_curves([], tmp_path / "curves.png", title="none")
    assert not list(tmp_path.iterdir())


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400),
    st.integers(4, 50),
)
def test_thinning_keeps_the_ends_and_the_extremes(numbers: list[float], most: int) -> None:
    curve = Curve("x", np.arange(len(numbers)), np.array(numbers))
    thin = curve.thinned(most)
    assert len(thin.values) <= max(most, min(len(numbers), most))
    assert thin.values.min() == min(numbers) and thin.values.max() == max(numbers)
    assert (thin.steps[0], thin.steps[-1]) == (0, len(numbers) - 1)
    assert (np.diff(thin.steps) > 0).all()
    # Each point is one of the curve's.
    assert (curve.values[thin.steps] == thin.values).all()


def test_torn_rows_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("step,loss\n1,2.5\n2,1.5\n3,nan\n\n,7\nx,8\n4,1.2\n5,0.\x00\n6\n7,1,9,9\n")
    with file.open(newline="") as lines:
        (loss,) = read_curves(csv.DictReader(lines))
    assert loss.steps.tolist() == [1, 2, 4, 7] and loss.lost == 1
