"""Sheets of images: right and wrong differ without colour, and no text is cut at an edge."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from align_train.figures.colours import DASHES, LINES, RIGHT, WRONG, grey
from align_train.figures.marks import FRAME, draw_frame, draw_mark
from align_train.figures.sheets import Hit, contact_sheet, hit_sheet

GREY = np.full((8, 8, 3), 128, dtype=np.uint8)
LONG = "a caption of many words that goes on and on, far beyond three lines under an image " * 3


def framed(right: bool) -> np.ndarray:
    """A frame around a square of 100 pixels, in grey."""
    sheet = Image.new("RGB", (120, 120), "white")
    draw_frame(sheet, 10, 10, 100, right=right)
    return np.asarray(sheet.convert("L"))


def test_frames_differ_in_grey_and_in_shape() -> None:
    assert abs(grey(RIGHT) - grey(WRONG)) > 60
    right, wrong = framed(True), framed(False)
    # Along the left side, below the mark.
    side = slice(10, 110), 10 - FRAME
    assert len(np.unique(right[side])) == 1, "the frame of what is right is solid"
    assert set(np.unique(wrong[side])) == {round(grey(WRONG)), 255}, "the other one has gaps"
    assert 0.3 < (wrong[side] == 255).mean() < 0.7


def test_marks_differ_in_black_and_white() -> None:
    marks = []
    for right in (True, False):
        sheet = Image.new("RGB", (20, 20), "white")
        draw_mark(ImageDraw.Draw(sheet), 0, 0, right=right)
        pixels = np.asarray(sheet.convert("L")).astype(int)
        # The stroke alone, whatever the colours: what differs from the box's corner.
        marks.append(abs(pixels - pixels[0, 0]) > 60)
    assert 0.05 < marks[0].mean() < 0.5 and 0.05 < marks[1].mean() < 0.5
    assert (marks[0] != marks[1]).mean() > 0.1


def test_lines_differ_in_grey_and_in_dashes() -> None:
    for first, second in combinations(LINES, 2):
        assert abs(grey(first) - grey(second)) >= 20, (first, second)
    assert len(set(DASHES)) == len(LINES)


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_nothing_is_cut_at_an_edge(count: int) -> None:
    flags = [index % 2 == 0 for index in range(count)]
    captions: list[str | tuple[str, str]] = [LONG, ("字" * 300, LONG)] * count
    sheets = [
        contact_sheet([GREY] * count, captions[:count], title=LONG, right=flags),
        hit_sheet([(LONG, None, [Hit(GREY, LONG, True)] * count)] * 2, title=LONG),
        hit_sheet([(LONG, GREY, [])] * count, title="short", image_is=LONG),
    ]
    for sheet in sheets:
        pixels = np.asarray(sheet.convert("L"))
        border = np.concatenate([pixels[:3].ravel(), pixels[-3:].ravel()])
        sides = np.concatenate([pixels[:, :3].ravel(), pixels[:, -3:].ravel()])
        assert (border == 255).all() and (sides == 255).all()


def test_a_wrong_answer_has_the_right_one_below_it() -> None:
    alone = contact_sheet([GREY], ["cat"], title="t", right=[False])
    both = contact_sheet([GREY], [("cat", "right: dog")], title="t", right=[False])
    assert both.height > alone.height
    assert (np.asarray(both)[alone.height - 16 :] < 128).any(), "one more line is written"


def test_images_without_captions_and_no_images_make_a_sheet() -> None:
    assert contact_sheet([], [], title="nothing").height > 0
    assert hit_sheet([], title="nothing").height > 0
    assert hit_sheet([("", None, [])], title="").height > 0
