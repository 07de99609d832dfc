"""plan.png: every part of the memory is drawn once, and every number of GPUs is on the axis."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from align_train.figures import plan_image
from align_train.figures.plan_image import PlanRow, draw_plan, parts_in_gb
from align_train.figures.plots import save_figure
from tests.support.drawn_figures import texts_of

MEMORY = {
    "ddp": {"weights": 10 * 10**9, "activations": 60 * 10**9, "batch": 10**6},
    "fsdp": {"weights": 10**9, "activations": 60 * 10**9, "gathered": 3 * 10**9},
}
SIZES = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 10**12), min_size=1)


def rows(*gpus: int, price: float | None = 2.0) -> list[PlanRow]:
    found = []
    for number in gpus:
        days = 800 / number
        found.append(
            PlanRow(
                gpus=number,
                seconds_a_step=8.0 / number,
                pairs_a_second=400.0 * number,
                days=days,
                cost=None if price is None else price * 24 * days * number,
                bound_by="matmul",
                fits=number > 8,
            )
        )
    return found


@given(st.dictionaries(st.sampled_from(["ddp", "fsdp", "zero"]), SIZES, min_size=1))
def test_drawn_parts_add_up_to_each_strategys_memory(memory: dict[str, dict[str, int]]) -> None:
    bars = parts_in_gb(memory)
    for place, parts in enumerate(memory.values()):
        drawn = sum(sizes[place] for sizes in bars.values())
        assert drawn == pytest.approx(sum(parts.values()) / 1e9)


def test_numbers_of_gpus_costs_and_parts_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.png"
    figures: list[Figure] = []

    def save(figure: Figure, path: Path, *, dpi: int, tight: bool) -> None:
        figures.append(figure)
        save_figure(figure, path, dpi=dpi, tight=tight)

    monkeypatch.setattr(plan_image, "save_figure", save)
    draw_plan(rows(8, 64, 1024), MEMORY, path, memory_of_gpu=80e9, title="b7 on H100")
    written = set(texts_of(figures[0]).splitlines())
    assert {"b7 on H100", "8", "64", "1,024", "ddp", "fsdp", "weights", "gathered"} <= written
    assert "all else" in written and "batch" not in written
    assert "$38,400" in written
    assert any("memory does not fit" in text for text in written)
    with Image.open(path) as image:
        assert min(image.size) > 300


def test_without_a_row_there_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "plan.png"
    draw_plan([], MEMORY, path, memory_of_gpu=80e9, title="nothing")
    assert not path.exists()
