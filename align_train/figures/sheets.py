"""Pictures that a run shows: contact sheets, hits, curves, matrices. Pillow draws the sheets, matplotlib the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_RIGHT, _WRONG = "#1a9850", "#d73027"


_LINE, _LINES = 24, 3  # characters a line, lines under a picture


_SIDE, _MARGIN = 112, 8  # of a hit


class Hit(NamedTuple):
    """A picture that a query found: pixels `[height, width, 3]`, what to write under it, and whether it is right, if known."""

    pixels: NDArray[np.uint8]
    note: str
    right: bool | None = None


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Whole or not at all."""
    aside = path.with_name(f".{path.name}")
    try:
        sheet.save(aside, "PNG")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def contact_sheet(
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    *,
    right: Sequence[bool] | None = None,
    columns: int = 8,
    side: int = 144,
) -> Image.Image:
    """Pictures `[height, width, 3]` in rows, each over its caption; framed green where `right`, else red."""
    margin, text_height = 8, 40
    cell_width, cell_height = side + margin, side + text_height
    rows = -(-len(images) // columns)
    sheet = Image.new(
        "RGB",
        (min(columns, len(images)) * cell_width + margin, rows * cell_height + margin),
        "white",
    )
    pen = ImageDraw.Draw(sheet)
    for number, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = margin + number % columns * cell_width, margin + number // columns * cell_height
        if right is not None:
            frame = (x - 3, y - 3, x + side + 2, y + side + 2)
            pen.rectangle(frame, fill=_RIGHT if right[number] else _WRONG)
        sheet.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR), (x, y))
        pen.multiline_text(
            (x, y + side + 3), _lines(caption), fill="black", spacing=1, font_size=10
        )
    return sheet


def _lines(text: str) -> str:
    """Cut into short lines, in what Pillow's built-in font can draw."""
    printable = text.encode("latin-1", "replace").decode("latin-1")
    return "\n".join(
        printable[start : start + _LINE]
        for start in range(0, min(len(printable), _LINE * _LINES), _LINE)
    )


def draw_answers(
    images: Callable[[int], NDArray[np.uint8]],
    answers: Sequence[str],
    right: Sequence[bool],
    path: Path,
    *,
    limit: int = 40,
) -> None:
    """A contact sheet of the first pictures over what was answered for them. images: by number."""
    shown = range(min(limit, len(answers)))
    sheet = contact_sheet(
        [images(n) for n in shown], answers[: len(shown)], right=right[: len(shown)]
    )
    save_sheet(sheet, path)


def hit_sheet(rows: Sequence[tuple[str, NDArray[np.uint8] | None, Sequence[Hit]]]) -> Image.Image:
    """A row per query, its text and, where it has one, its picture on the left, its hits beside it, best first; framed green
    where right, red where wrong."""
    cell, height = _SIDE + _MARGIN, _SIDE + 24
    most = max((len(hits) for _, _, hits in rows), default=0)
    sheet = Image.new("RGB", ((2 + most) * cell + _MARGIN, len(rows) * height + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (text, picture, hits) in enumerate(rows):
        y = _MARGIN + number * height
        pen.multiline_text((_MARGIN, y + 4), _lines(text), fill="black", spacing=2, font_size=11)
        if picture is not None:
            sheet.paste(_small(picture), (cell + _MARGIN, y))
        for place, hit in enumerate(hits, start=2):
            x = _MARGIN + place * cell
            if hit.right is not None:
                pen.rectangle(
                    (x - 3, y - 3, x + _SIDE + 2, y + _SIDE + 2),
                    fill=_RIGHT if hit.right else _WRONG,
                )
            sheet.paste(_small(hit.pixels), (x, y))
            pen.text(
                (x, y + _SIDE + 4), _lines(hit.note).partition("\n")[0], fill="black", font_size=10
            )
    return sheet


def _small(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
