"""Texts on sheets: in a font that scales and has their script, wrapped to the width that they take.

Price: a line's width is measured for each word that it gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import ImageDraw, ImageFont

from align_train.errors import printable
from align_train.figures.fonts import pillow_font
from align_train.figures.wrap import wrap

LINE_HEIGHT = 17  # pixels

_SIZE = 13  # of letters, in pixels
_HEADING_SIZE = 19
_HEADING_HEIGHT = 26

# A caption may be a book: no more of it is looked at than can be drawn.
_LETTERS_A_LINE = 200


class Line(NamedTuple):
    """A line, and its font."""

    text: str
    font: ImageFont.FreeTypeFont


def lines_of(text: str, *, width: int, most: int, heading: bool = False) -> list[Line]:
    """Cuts a text into lines. Characters without a shape are spelled out.

    Args:
        text: The text, a stranger's.
        width: In pixels.
        most: The most lines.
        heading: Whether it is a title.
    """
    plain = printable(" ".join(text[: most * _LETTERS_A_LINE].split()))
    font = pillow_font(plain, _HEADING_SIZE if heading else _SIZE)
    lines = wrap(plain, width=width, lines=most, measure=font.getlength)
    return [Line(line, font) for line in lines]


def write_lines(pen: ImageDraw.ImageDraw, x: int, y: int, lines: Sequence[Line]) -> None:
    """Writes lines below one another. x, y: the upper left corner, in pixels."""
    for line in lines:
        pen.text((x, y), line.text, fill="black", font=line.font)
        y += LINE_HEIGHT


def write_heading(pen: ImageDraw.ImageDraw | None, x: int, y: int, lines: Sequence[Line]) -> int:
    """Writes a title.

    Args:
        pen: None: nothing is written.
        x: The left edge, in pixels.
        y: The upper edge, in pixels.
        lines: The title's.

    Returns:
        Its height, in pixels.
    """
    for row, line in enumerate(lines):
        if pen is not None:
            pen.text((x, y + row * _HEADING_HEIGHT), line.text, fill="black", font=line.font)
    return len(lines) * _HEADING_HEIGHT
