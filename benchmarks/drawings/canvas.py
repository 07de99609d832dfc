"""Boxes, arrows and texts on an empty page, saved as an SVG that has the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

# Pale, so that black text stays readable on them; told apart by most colour-blind readers.
COLOURS = ("#a6cee3", "#fdbf6f", "#b2df8a", "#fb9a99", "#cab2d6", "#ffff99")
INK = "#222222"
QUIET = "#777777"


def page(width: float, height: float) -> tuple[Figure, Axes]:
    """Returns a figure of this size in inches; its axes count in tenths of an inch, from below."""
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 10 * width)
    axes.set_ylim(0, 10 * height)
    axes.axis("off")
    return figure, axes


def box(axes: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    """Draws a filled box with its lower left corner at (x, y)."""
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor=INK, linewidth=0.6))


def frame(axes: Axes, x: float, y: float, width: float, height: float, *, style: str = "-") -> None:
    """Draws an empty frame with round corners around a box of this size."""
    patch = FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle="round,pad=0.25",
        facecolor="none",
        edgecolor=INK,
        linewidth=1.2,
        linestyle=style,
    )
    axes.add_patch(patch)


def text(
    axes: Axes,
    x: float,
    y: float,
    words: str,
    *,
    size: float = 9,
    across: str = "center",
    colour: str = INK,
    bold: bool = False,
) -> None:
    """Writes words whose middle line is at y."""
    axes.text(
        x,
        y,
        words,
        fontsize=size,
        ha=across,
        va="center",
        color=colour,
        fontweight="bold" if bold else "normal",
    )


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draws an arrow between two points."""
    style = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def save(figure: Figure, path: Path) -> None:
    """Writes the figure. Without date and random ids, the same drawing gives the same bytes."""
    with mpl.rc_context({"svg.hashsalt": "align_train"}):
        figure.savefig(path, metadata={"Date": None})
