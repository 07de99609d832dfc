"""Sheets of images by Pillow: contact sheets of batches and answers, and hits of queries."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from align_train.errors import printable
from align_train.figures.fonts import pillow_font
from align_train.files import whole

_RIGHT = "#1a9850"
_WRONG = "#d73027"

# Under an image.
_CHARACTERS_A_LINE = 24
_LINES = 3

# In pixels.
_MARGIN = 8
_FRAME = 3  # how far a frame stands out
_CAPTION_HEIGHT = 40
_HIT_SIDE = 112
_NOTE_HEIGHT = 24

# Columns of a row of hits that its query takes: text, then image.
_QUERY_COLUMNS = 2


class Hit(NamedTuple):
    """An image that a query found."""

    pixels: NDArray[np.uint8]  # [height, width, 3]
    note: str  # written under it
    right: bool | None = None  # None: not known


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Writes a sheet whole, as a PNG."""
    with whole(path) as aside:
        sheet.save(aside, "PNG")


def contact_sheet(
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    *,
    right: Sequence[bool] | None = None,
    columns: int = 8,
    side: int = 144,
) -> Image.Image:
    """Draws images in rows, each over its caption.

    Args:
        images: Pixels, each `[height, width, 3]`.
        captions: One for each image.
        right: Frames each image in green if true, else in red; None: no frames.
        columns: Images in a row.
        side: Of each image on the sheet, in pixels.

    Returns:
        The sheet.
    """
    cell_width = side + _MARGIN
    cell_height = side + _CAPTION_HEIGHT
    rows = -(-len(images) // columns)
    width = min(columns, len(images)) * cell_width + _MARGIN
    sheet = Image.new("RGB", (width, rows * cell_height + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)

    for index, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(index, columns)
        x = _MARGIN + column * cell_width
        y = _MARGIN + row * cell_height
        if right is not None:
            _frame(pen, x, y, side, right[index])
        sheet.paste(_square(pixels, side), (x, y))

        text = _cut(caption)
        font = pillow_font(text, 10)
        pen.multiline_text((x, y + side + 3), text, fill="black", spacing=1, font=font)
    return sheet


def draw_answers(
    images: Callable[[int], NDArray[np.uint8]],
    answers: Sequence[str],
    right: Sequence[bool],
    path: Path,
    *,
    limit: int = 40,
) -> None:
    """Draws a contact sheet of the first images, each over the answer for it.

    Args:
        images: From an index to pixels `[height, width, 3]`.
        answers: One for each image.
        right: Whether each answer is right.
        path: The sheet's file.
        limit: At most so many images are drawn.
    """
    count = min(limit, len(answers))
    shown = [images(index) for index in range(count)]
    save_sheet(contact_sheet(shown, answers[:count], right=right[:count]), path)


def hit_sheet(rows: Sequence[tuple[str, NDArray[np.uint8] | None, Sequence[Hit]]]) -> Image.Image:
    """Draws a row for each query: its text and image on the left, and its hits, best first.

    Args:
        rows: For each query its text, its image (pixels, or None), and its hits. A hit is framed in
            green if it is right, in red if it is wrong.

    Returns:
        The sheet.
    """
    cell = _HIT_SIDE + _MARGIN
    height = _HIT_SIDE + _NOTE_HEIGHT
    most_hits = max((len(hits) for _, _, hits in rows), default=0)
    width = (_QUERY_COLUMNS + most_hits) * cell + _MARGIN
    sheet = Image.new("RGB", (width, len(rows) * height + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)

    for row, (text, image, hits) in enumerate(rows):
        y = _MARGIN + row * height
        cut = _cut(text)
        font = pillow_font(cut, 11)
        pen.multiline_text((_MARGIN, y + 4), cut, fill="black", spacing=2, font=font)
        if image is not None:
            sheet.paste(_square(image, _HIT_SIDE), (cell + _MARGIN, y))

        for column, hit in enumerate(hits, start=_QUERY_COLUMNS):
            x = _MARGIN + column * cell
            if hit.right is not None:
                _frame(pen, x, y, _HIT_SIDE, hit.right)
            sheet.paste(_square(hit.pixels, _HIT_SIDE), (x, y))

            note = _cut(hit.note).partition("\n")[0]
            font = pillow_font(note, 10)
            pen.text((x, y + _HIT_SIDE + 4), note, fill="black", font=font)
    return sheet


def _square(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)


def _frame(pen: ImageDraw.ImageDraw, x: int, y: int, side: int, right: bool) -> None:
    end = side + _FRAME - 1
    box = (x - _FRAME, y - _FRAME, x + end, y + end)
    pen.rectangle(box, fill=_RIGHT if right else _WRONG)


def _cut(text: str) -> str:
    """Cuts a text into a few short lines. Characters without a shape are spelled out."""
    # A caption may be a book: no more of it is looked at than can be drawn.
    plain = printable(" ".join(text[: 4 * _CHARACTERS_A_LINE * _LINES].split()))
    return "\n".join(islice(_lines(plain), _LINES))


def _lines(text: str) -> Iterator[str]:
    """Cuts a text into lines. Chinese and the like are twice as wide as Latin."""
    line = ""
    room = _CHARACTERS_A_LINE
    for letter in text:
        width = 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if width > room:
            yield line
            line = ""
            room = _CHARACTERS_A_LINE
        line += letter
        room -= width
    yield line
