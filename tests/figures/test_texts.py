"""Figures take any text: no formula, no warning, and a font that has the script."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageFont

from align_train.figures import fonts
from align_train.figures.curves_image import draw_curves
from align_train.figures.plots import (
    draw_bars,
    draw_confusion,
    draw_lines,
    draw_means,
    draw_similarity,
)
from align_train.figures.sheets import Hit, contact_sheet, hit_sheet, save_sheet

ODD = [
    "ዓለም",  # Ethiopic
    "$\\sqrt{$ and $x^{",
    "a \\$ b $",
    "\x1b[2J\x07\x9b0m",
    "\u2066isolated\u202e",
    "half \udfff",
    "tab\tand\nline",
    "字" * 500,
    "🧑‍🚀",
    "",
    "\0",
]


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_every_figure_takes_every_text(tmp_path: Path) -> None:
    images = [np.full((16, 16, 3), 128, np.uint8)] * len(ODD)
    save_sheet(contact_sheet(images, ODD, title=ODD[2]), tmp_path / "sheet.png")
    hits = [(text, None, [Hit(images[0], text)]) for text in ODD]
    save_sheet(hit_sheet(hits, title=ODD[7], image_is=ODD[8]), tmp_path / "hits.png")

    cosines = np.zeros((len(ODD), len(ODD)), dtype=np.float32)
    draw_similarity(cosines, images, ODD, tmp_path / "cosines.png", title="$\\sqrt{")
    counts = np.eye(len(ODD), dtype=np.int64)
    draw_confusion(counts, ODD, tmp_path / "confusion.png", title="字")
    rows = [{"step": str(step), "$loss_{": str(step / 2), "$\\x": "1"} for step in (1, 2)]
    draw_curves(rows, tmp_path / "curves.png", title="run $x^{ \x1b")
    lines = {text or "none": [(1.0, 2.0), (20.0, 3.0)] for text in ODD}
    draw_lines(lines, tmp_path / "lines.png", across="$a_{", up="字")
    bars = {text or "none": [0.5, 0.7] for text in ODD}
    draw_means(bars, tmp_path / "means.png", up="$a_{")

    draw_bars(ODD, {"$^": range(len(ODD))}, tmp_path / "bars.png", title="字", across="$_{")

    for file in tmp_path.iterdir():
        Image.open(file).verify()
    assert len(list(tmp_path.iterdir())) == 8


def font_with(letter: str, path: Path) -> None:
    """Writes a font that draws one character, as a filled square."""
    pen = TTGlyphPen(None)
    for point in ((0, 0), (0, 800), (800, 800), (800, 0)):
        (pen.lineTo if point != (0, 0) else pen.moveTo)(point)
    pen.closePath()

    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(letter): "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


@pytest.mark.parametrize("letter", ["字", "ዓ", "ᚠ"])
def test_an_installed_font_of_the_script_is_taken(
    letter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    font_with(letter, tmp_path / "Squares-Regular.ttf")
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    found = [tmp_path / "broken.ttf", tmp_path / "Squares-Regular.ttf"]
    monkeypatch.setattr(fonts, "_installed", lambda: found)
    monkeypatch.setattr(fonts, "_found", {})

    assert fonts.families(["latin", letter]) == ["DejaVu Sans", "Squares"]
    assert fonts.families(["latin", "привет"]) == ["DejaVu Sans"]

    # The square covers its whole cell; a box for a missing character is hollow.
    font = fonts.pillow_font(letter, 20)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert font.getname()[0] == "Squares"
    filled = font.getmask(letter)
    assert np.asarray(filled, dtype=np.uint8).mean() > 200
