"""Right and wrong on sheets: a dark solid frame with a tick, or a light dashed one with a cross.

The marks are drawn, not written: no font has to have them.
"""

from __future__ import annotations

from PIL import Image, ImageDraw

from align_train.figures.colours import RIGHT, WRONG
from align_train.figures.lettering import LINE_HEIGHT, lines_of, write_lines

FRAME = 3  # pixels that a frame stands out

_DASH = 12  # pixels, and as many between two
_BADGE = 20  # the side of the box with the mark
_WORDS = 260  # pixels for the words of a legend

_TICK = ((0.2, 0.55), (0.42, 0.76), (0.82, 0.26))
_CROSS = (((0.25, 0.25), (0.75, 0.75)), ((0.25, 0.75), (0.75, 0.25)))


def draw_frame(sheet: Image.Image, x: int, y: int, side: int, *, right: bool) -> None:
    """Draws a frame around an image, and the mark in its upper right corner.

    Args:
        sheet: The sheet.
        x: The image's left edge, in pixels.
        y: Its upper edge.
        side: Its side.
        right: Which of both.
    """
    pen = ImageDraw.Draw(sheet)
    ends = (x - FRAME, y - FRAME, x + side + FRAME - 1, y + side + FRAME - 1)
    if right:
        pen.rectangle(ends, outline=RIGHT, width=FRAME)
    else:
        _draw_dashed(pen, ends)
    draw_mark(pen, x + side - _BADGE, y, right=right)


def draw_mark(pen: ImageDraw.ImageDraw, x: int, y: int, *, right: bool) -> None:
    """Draws a box with a tick or a cross. x, y: its upper left corner, in pixels."""
    pen.rectangle((x, y, x + _BADGE - 1, y + _BADGE - 1), fill=RIGHT if right else WRONG)
    strokes = (_TICK,) if right else _CROSS
    for stroke in strokes:
        points = [(x + across * _BADGE, y + down * _BADGE) for across, down in stroke]
        pen.line(points, fill="white" if right else "black", width=3, joint="curve")


def draw_legend(pen: ImageDraw.ImageDraw, x: int, y: int, words: tuple[str, str]) -> int:
    """Says what both marks mean.

    Args:
        pen: Draws.
        x: The left edge, in pixels.
        y: The upper edge.
        words: For right, and for wrong.

    Returns:
        The right edge, with a gap.
    """
    for right, meaning in zip((True, False), words, strict=True):
        draw_mark(pen, x, y, right=right)
        frame = "solid" if right else "dashed"
        lines = lines_of(f"{meaning} ({frame})", width=_WORDS, most=1)
        write_lines(pen, x + _BADGE + 6, y + (_BADGE - LINE_HEIGHT) // 2, lines)
        x += _BADGE + 6 + sum(int(line.font.getlength(line.text)) for line in lines) + 20
    return x


def _draw_dashed(pen: ImageDraw.ImageDraw, ends: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = ends
    for start in range(left, right, 2 * _DASH):
        end = min(start + _DASH - 1, right)
        pen.rectangle((start, top, end, top + FRAME - 1), fill=WRONG)
        pen.rectangle((start, bottom - FRAME + 1, end, bottom), fill=WRONG)
    for start in range(top, bottom, 2 * _DASH):
        end = min(start + _DASH - 1, bottom)
        pen.rectangle((left, start, left + FRAME - 1, end), fill=WRONG)
        pen.rectangle((right - FRAME + 1, start, right, end), fill=WRONG)
