"""Sheets of images by Pillow: contact sheets of batches and answers, and hits of queries.

Each sheet has a title. Right and wrong are told by a mark and by a solid or dashed frame; a line
below the title says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from align_train.figures.lettering import LINE_HEIGHT, Line, lines_of, write_heading, write_lines
from align_train.figures.marks import FRAME, draw_frame, draw_legend
from align_train.files import whole

# In pixels.
_MARGIN = 10
_GAP = 2 * FRAME + 4  # between neighbours
_HIT_SIDE = 128
_QUERY_WIDTH = 190
_LEAST_WIDTH = 420  # for a title over few images

_CAPTION_LINES = 3  # of a text under an image
_PART_LINES = 2  # of each of several texts under an image
_QUERY_LINES = 6
_NOTE_LINES = 2

_LEGEND = ("right", "wrong")


class Hit(NamedTuple):
    """An image that a query found."""

    pixels: NDArray[np.uint8]  # [height, width, 3]
    note: str  # written under it
    right: bool | None = None  # None: not known


Caption = str | Sequence[str]
"""A text under an image, or several, each of which begins a line."""

Row = tuple[str, NDArray[np.uint8] | None, Sequence[Hit]]
"""A query's text, its image (pixels) or None, and its hits."""


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Writes a sheet whole, as a PNG."""
    with whole(path) as aside:
        sheet.save(aside, "PNG")


def contact_sheet(
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[Caption],
    *,
    title: str,
    right: Sequence[bool] | None = None,
    legend: tuple[str, str] = _LEGEND,
    columns: int = 8,
    side: int = 144,
) -> Image.Image:
    """Draws images in rows, each over its caption.

    Args:
        images: Pixels, each `[height, width, 3]`.
        captions: One for each image.
        title: The sheet's title.
        right: Frames and marks each image as right or wrong; None: no frames.
        legend: What both frames mean.
        columns: Images in a row.
        side: Of each image on the sheet, in pixels.

    Returns:
        The sheet.
    """
    columns = min(columns, max(1, len(images)))
    cell = side + _GAP
    written = [_caption(caption, side) for caption in captions]
    rows = [written[start : start + columns] for start in range(0, len(written), columns)]
    heights = [_height_of(row, side) for row in rows]

    width = max(columns * cell - _GAP + 2 * _MARGIN, _LEAST_WIDTH)
    top = _heading_height(title, width, legend=right is not None)
    sheet = Image.new("RGB", (width, top + sum(heights) + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    _heading(pen, title, width, legend if right is not None else None)

    for index, (pixels, lines) in enumerate(zip(images, written, strict=True)):
        row, column = divmod(index, columns)
        x = _MARGIN + column * cell
        y = top + sum(heights[:row])
        sheet.paste(_square(pixels, side), (x, y))
        if right is not None:
            draw_frame(sheet, x, y, side, right=right[index])
        write_lines(pen, x, y + side + FRAME + 2, lines)
    return sheet


def draw_answers(
    images: Callable[[int], NDArray[np.uint8]],
    answers: Sequence[str],
    right: Sequence[bool],
    path: Path,
    *,
    title: str,
    truths: Sequence[str] | None = None,
    limit: int = 40,
) -> None:
    """Draws a contact sheet of the first images, each over the answer for it.

    Args:
        images: From an index to pixels `[height, width, 3]`.
        answers: One for each image.
        right: Whether each answer is right.
        path: The sheet's file.
        title: The sheet's title.
        truths: The right answers, which stand below the wrong ones; None: not known.
        limit: At most so many images are drawn.
    """
    count = min(limit, len(answers))
    # Only those that are drawn are read: a set may be large.
    shown = [images(index) for index in range(count)]
    captions: list[Caption] = []
    for index in range(count):
        if right[index] or truths is None:
            captions.append(answers[index])
        else:
            captions.append((answers[index], f"right: {truths[index]}"))
    save_sheet(contact_sheet(shown, captions, title=title, right=right[:count]), path)


def hit_sheet(
    rows: Sequence[Row],
    *,
    title: str,
    legend: tuple[str, str] = _LEGEND,
    image_is: str = "",
) -> Image.Image:
    """Draws a row for each query: its text and image on the left, and its hits, best first.

    Args:
        rows: For each query its text, its image (pixels, or None), and its hits. Hits that are
            known to be right or wrong are framed and marked.
        title: The sheet's title.
        legend: What both frames mean.
        image_is: What the image beside a query's text is, for the line below the title.

    Returns:
        The sheet.
    """
    # A column that no row needs takes no room.
    has_texts = any(text for text, _, _ in rows)
    has_images = any(image is not None for _, image, _ in rows)
    cell = _HIT_SIDE + _GAP
    first_hit = _MARGIN + has_texts * (_QUERY_WIDTH + _GAP) + has_images * (cell + _MARGIN)
    most_hits = max((len(hits) for _, _, hits in rows), default=0)
    every_hit = chain.from_iterable(hits for _, _, hits in rows)
    judged = any(hit.right is not None for hit in every_hit)

    texts = [lines_of(text, width=_QUERY_WIDTH, most=_QUERY_LINES) for text, _, _ in rows]
    notes = [list(map(_note, hits)) for _, _, hits in rows]
    heights = [_height_of(row, _HIT_SIDE) for row in notes]

    width = max(first_hit + most_hits * cell - _GAP + _MARGIN, _LEAST_WIDTH)
    top = _heading_height(title, width, legend=judged or bool(image_is))
    sheet = Image.new("RGB", (width, top + sum(heights) + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    _heading(pen, title, width, legend if judged else None, image_is)

    y = top
    for (_, image, hits), text, note, height in zip(rows, texts, notes, heights, strict=True):
        write_lines(pen, _MARGIN, y, text)
        if image is not None:
            sheet.paste(_square(image, _HIT_SIDE), (first_hit - cell - _MARGIN, y))
        for column, (hit, lines) in enumerate(zip(hits, note, strict=True)):
            x = first_hit + column * cell
            sheet.paste(_square(hit.pixels, _HIT_SIDE), (x, y))
            if hit.right is not None:
                draw_frame(sheet, x, y, _HIT_SIDE, right=hit.right)
            write_lines(pen, x, y + _HIT_SIDE + FRAME + 2, lines)
        y += height
    return sheet


def _caption(caption: Caption, width: int) -> list[Line]:
    if isinstance(caption, str):
        return lines_of(caption, width=width, most=_CAPTION_LINES)
    parts: list[Line] = []
    for part in caption:
        parts += lines_of(part, width=width, most=_PART_LINES)
    return parts


def _note(hit: Hit) -> list[Line]:
    return lines_of(hit.note, width=_HIT_SIDE, most=_NOTE_LINES)


def _height_of(row: Sequence[Sequence[Line]], side: int) -> int:
    """The height of a row of images with lines under them."""
    most = max((len(lines) for lines in row), default=0)
    return side + FRAME + 2 + most * LINE_HEIGHT + _GAP


def _heading_height(title: str, width: int, *, legend: bool) -> int:
    # Measured first: a sheet of Pillow's has its size from the beginning.
    lines = lines_of(title, width=width - 2 * _MARGIN, most=2, heading=True)
    return _MARGIN + write_heading(None, 0, 0, lines) + legend * (LINE_HEIGHT + 8) + 4


def _heading(
    pen: ImageDraw.ImageDraw,
    title: str,
    width: int,
    legend: tuple[str, str] | None,
    image_is: str = "",
) -> None:
    lines = lines_of(title, width=width - 2 * _MARGIN, most=2, heading=True)
    y = _MARGIN + write_heading(pen, _MARGIN, _MARGIN, lines)
    x = _MARGIN
    if legend is not None:
        x = draw_legend(pen, x, y + 2, legend)
    write_lines(pen, x, y + 2, lines_of(image_is, width=width - x - _MARGIN, most=1))


def _square(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)
