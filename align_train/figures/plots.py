"""Plots by matplotlib: lines, bars, heat maps. Each is written whole, as a PNG.

Figures are made without pyplot, which would keep each of them alive and pick a window system.
matplotlib is imported at the first plot: it takes half a second.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from align_train.errors import printable
from align_train.figures.colours import DASHES, LINES
from align_train.figures.fonts import families
from align_train.figures.wrap import wrap
from align_train.files import whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Rows and columns of a matrix whose names can still be read.
_MOST_NAMES = 80

_LONGEST_CAPTION = 40  # characters
_POINTS_OF_A_LINE = 400  # more would not show

# Of the points of lines, so that they also differ without colour.
_MARKERS = "osD^v"


def draw_lines(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    path: Path,
    *,
    across: str,
    up: str,
    title: str = "",
) -> None:
    """Draws a line through the points of each name.

    The axis across is logarithmic if it spans more than a factor of 10.

    Args:
        lines: Points (across, up) by name.
        path: The image.
        across: The label of the axis across.
        up: The label of the axis up.
        title: The image's title.
    """
    figure = new_figure(6.4, 4.2)
    axis = figure.subplots()
    axis.set_title(title, fontsize=10)
    positions: set[float] = set()
    for place, (name, points) in enumerate(lines.items()):
        xs, ys = zip(*points, strict=True)
        marker = _MARKERS[place % len(_MARKERS)]
        axis.plot(xs, ys, marker=marker, markersize=4, label=_label(name), **_style(place))
        positions.update(xs)

    ticks = sorted(positions)
    if ticks[0] > 0 and ticks[-1] > 10 * ticks[0]:
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
        axis.minorticks_off()
    _save_graph(figure, axis, path, across, up)


def draw_cumulative(
    lines: Mapping[str, NDArray[np.float64]], path: Path, *, across: str, up: str, title: str = ""
) -> None:
    """Draws rising lines of any length, each through a few hundred of its values.

    Args:
        lines: Values by name, one for each place on the axis across.
        path: The image.
        across: The label of the axis across.
        up: The label of the axis up.
        title: The image's title.
    """
    figure = new_figure(6.4, 4.2)
    axis = figure.subplots()
    axis.set_title(title, fontsize=10)
    for place, (name, values) in enumerate(lines.items()):
        places = np.unique(np.linspace(0, len(values) - 1, _POINTS_OF_A_LINE).astype(np.int64))
        axis.plot(places + 1, values[places], linewidth=1.8, label=_label(name), **_style(place))
    _save_graph(figure, axis, path, across, up)


def draw_means(values: Mapping[str, Sequence[float]], path: Path, *, up: str) -> None:
    """Draws the mean of each name's values as a bar, and the values as dots on it.

    Args:
        values: Values by name.
        path: The image.
        up: The label of the axis up.
    """
    figure = new_figure(6.4, 4.2)
    axis = figure.subplots()
    for place, numbers in enumerate(values.values()):
        axis.bar(place, sum(numbers) / len(numbers), width=0.6, color="#9ecae1")
        axis.plot([place] * len(numbers), numbers, "o", markersize=4, color="#08519c")

    labels = [_label(name) for name in values]
    axis.set_xticks(range(len(labels)), labels)
    axis.set_ylabel(up)
    axis.grid(axis="y", alpha=0.3)
    save_figure(figure, path, dpi=110, tight=True)


def draw_bars(
    names: Sequence[str],
    bars: Mapping[str, Sequence[float]],
    path: Path,
    *,
    title: str,
    across: str,
) -> None:
    """Draws bars that lie, from the top down: of each name one for each kind, with its number.

    Args:
        names: Of the rows.
        bars: For each kind a number for each name.
        path: The image.
        title: The image's title.
        across: The label of the axis across.
    """
    figure = new_figure(8, 1.2 + 0.55 * len(names))
    axis = figure.subplots()
    thickness = 0.8 / len(bars)
    for kind, (label, numbers) in enumerate(bars.items()):
        heights = np.arange(len(names)) + (kind - (len(bars) - 1) / 2) * thickness
        colour = ("#9ecae1", "#08519c")[kind % 2]
        drawn = axis.barh(heights, numbers, height=0.95 * thickness, label=label, color=colour)
        axis.bar_label(drawn, [f"{number:.2f}" for number in numbers], fontsize=7, padding=2)

    axis.set_yticks(range(len(names)), [_label(name) for name in names])
    axis.invert_yaxis()
    axis.set_xlabel(across)
    axis.set_title(title, fontsize=10)
    # Beside the bars, of which it would hide one.
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1))
    axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path, dpi=110, tight=True)


def draw_confusion(
    matrix: NDArray[np.int64], names: Sequence[str], path: Path, *, title: str
) -> None:
    """Draws counts as a heat map, each row as shares of its class.

    Args:
        matrix: Counts, `[true class, predicted class]`.
        names: The classes' names.
        path: The image.
        title: The beginning of the image's title.
    """
    side = min(14.0, 4 + 0.16 * len(names))
    figure = new_figure(side + 1, side)
    axis = figure.subplots()

    # A class without images has shares of 0, not of 0/0.
    counts = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    heat_map = axis.imshow(matrix / counts, cmap="magma", vmin=0, vmax=1)

    _name_axes(axis, names)
    axis.set_xlabel("class given")
    axis.set_ylabel("class")
    axis.set_title(f"{title}: which class each class is taken for")
    figure.colorbar(heat_map, fraction=0.04, label="share of the class's images")
    save_figure(figure, path, tight=True)


def draw_similarity(
    matrix: NDArray[np.float32],
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    path: Path,
    *,
    title: str,
) -> None:
    """Draws cosines of pairs as a heat map, with the images beside its rows.

    Pairs lie on the diagonal.

    Args:
        matrix: Cosines, `[images, texts]`.
        images: Pixels, each `[height, width, 3]`.
        captions: The texts.
        path: The image.
        title: The beginning of the image's title.
    """
    side = 3 + 0.3 * len(images)
    figure = new_figure(side + 1, side + 1.5)
    axis = figure.subplots()
    heat_map = axis.imshow(matrix, cmap="viridis", extent=(0, len(captions), len(images), 0))

    for row, pixels in enumerate(images):
        inset = axis.inset_axes((-1.1, row + 0.05, 0.9, 0.9), transform=axis.transData)
        inset.imshow(pixels)
        inset.axis("off")
    axis.set_yticks([])

    names = [_label(caption) for caption in captions]
    axis.set_xticks(np.arange(len(names)) + 0.5, names, rotation=90, fontsize=7)

    axis.set_title(f"{title}: each image against each text; pairs on the diagonal", loc="left")
    figure.colorbar(heat_map, fraction=0.04, label="cosine")
    save_figure(figure, path, tight=True)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure. width, height: in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _label(text: str) -> str:
    """A name of a row, a column or a line: cut at a word's end."""
    # A caption may be a book.
    plain = printable(text[: 4 * _LONGEST_CAPTION])
    return "".join(wrap(plain, width=_LONGEST_CAPTION, lines=1, measure=len))


class _Style(TypedDict):
    color: str
    linestyle: str | tuple[int, Sequence[float]]


def _style(place: int) -> _Style:
    """Colour and dashes of a line, which differ from those of the lines before it."""
    dash = DASHES[place % len(DASHES)]
    # matplotlib: an offset, and lengths; none is a solid line.
    return {"color": LINES[place % len(LINES)], "linestyle": (0, dash) if dash else "-"}


def _save_graph(figure: Figure, axis: Axes, path: Path, across: str, up: str) -> None:
    """Writes a figure of lines, with its labels, grid and legend."""
    axis.set_xlabel(across)
    axis.set_ylabel(up)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save_figure(figure, path, dpi=110, tight=True)


def save_figure(figure: Figure, path: Path, *, dpi: int = 100, tight: bool = False) -> None:
    """Writes a figure, whatever its texts are.

    Args:
        figure: The figure. Its texts are taken as they are: `$` begins no formula.
        path: The image.
        dpi: Pixels an inch.
        tight: Lay the figure out, and make it as large as its texts, so that none is cut off.
    """
    from matplotlib.text import Text

    texts: list[Text] = figure.findobj(Text)
    fonts = families(text.get_text() for text in texts)
    for text in texts:
        text.set_text(printable(text.get_text()))
        text.set_parse_math(False)
        text.set_fontfamily(fonts)

    with warnings.catch_warnings():
        # A box in place of a character says enough, and so does a name that is cut off.
        warnings.filterwarnings("ignore", message="Glyph .* missing from|Tight layout not applied")
        if tight:
            figure.tight_layout()
        _write(figure, path, dpi, "tight" if tight else None)


def _write(figure: Figure, path: Path, dpi: int, box: str | None) -> None:
    # The name of the file that is written has no extension, so the format is given.
    with whole(path) as aside:
        figure.savefig(aside, dpi=dpi, format="png", bbox_inches=box)


def _name_axes(axis: Axes, names: Sequence[str]) -> None:
    if len(names) > _MOST_NAMES:
        return
    labels = [_label(name) for name in names]
    size = 7 if len(names) > _MOST_NAMES // 2 else 8
    axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
    axis.set_yticks(range(len(labels)), labels, fontsize=size)
