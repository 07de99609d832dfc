"""curves.png: at most 12 panels over the step, in groups; what is not drawn stands below them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align_train.errors import printable
from align_train.figures.colours import DASHES, LINES
from align_train.figures.curves import notes_of, read_curves
from align_train.figures.panels import MOST_PANELS, Panel, by_group, panels_of
from align_train.figures.plots import new_figure, save_figure
from align_train.figures.wrap import wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# In inches.
_COLUMNS = 4
_WIDTH = 3.7  # of a panel and its margin
_HEIGHT = 2.5
_HEADING = 0.42  # of a group
_TITLE = 0.5
_LINE = 0.17  # of the notes below
_LEFT = 0.55  # of a panel, for its numbers
_BELOW = 0.5  # a panel, for its numbers and the next panel's title

_NOTE_LETTERS = 220  # in a line across four panels
_NOTE_LINES = 6  # of each note
_FEW_POINTS = 20  # so many are marked one by one


def draw_curves(rows: Iterable[Mapping[str, str]], path: Path, *, title: str) -> None:
    """Draws the most telling columns of metrics.csv over the step.

    Args:
        rows: The rows of metrics.csv. An empty cell is no point; without a curve there is no image.
        path: The image.
        title: The image's title.
    """
    curves = read_curves(rows)
    panels = panels_of(curves)
    if not panels:
        return

    notes = notes_of(curves)
    if rest := panels[MOST_PANELS:]:
        left_out = chain.from_iterable(panel.curves for panel in rest)
        names = [curve.name for curve in left_out]
        notes.insert(0, f"not drawn here: {', '.join(names)}")
    _draw(by_group(panels[:MOST_PANELS]), notes, path, title=f"{title}, by optimizer step")


def _draw(
    groups: Mapping[str, Sequence[Panel]], notes: Sequence[str], path: Path, *, title: str
) -> None:
    columns = min(_COLUMNS, max(map(len, groups.values())))
    letters = _NOTE_LETTERS * columns // _COLUMNS
    lines = []
    for note in notes:
        lines += wrap(printable(note), width=letters, lines=_NOTE_LINES, measure=len)

    width = columns * _WIDTH
    rows = sum(-(-len(panels) // columns) for panels in groups.values())
    height = _TITLE + len(groups) * _HEADING + rows * _HEIGHT + len(lines) * _LINE + 0.1
    figure = new_figure(width, height)

    def write(text: str, top: float, size: float, **options: Any) -> None:
        figure.text(
            0.1 / width, 1 - top / height, text, fontsize=size, va="top", ha="left", **options
        )

    (first,) = wrap(printable(title), width=letters // 2, lines=1, measure=len) or [""]
    write(first, 0.12, 13)
    top = _TITLE
    for group, panels in groups.items():
        write(group, top + 0.05, 10, weight="bold", color="#555555")
        top += _HEADING
        for index, panel in enumerate(panels):
            row, column = divmod(index, columns)
            left = (column * _WIDTH + _LEFT) / width
            bottom = 1 - (top + (row + 1) * _HEIGHT - _BELOW) / height
            inner = ((_WIDTH - _LEFT - 0.12) / width, (_HEIGHT - _BELOW - 0.18) / height)
            _draw_panel(_axes(figure, left, bottom, inner), panel)
        top += -(-len(panels) // columns) * _HEIGHT
    for line in lines:
        write(line, top, 8, color="#333333")
        top += _LINE
    save_figure(figure, path)


def _axes(figure: Figure, left: float, bottom: float, inner: tuple[float, float]) -> Axes:
    axis: Axes = figure.add_axes((left, bottom, *inner))
    return axis


def _draw_panel(axis: Axes, panel: Panel) -> None:
    for curve, label, colour, dash in zip(
        panel.curves, panel.labels(), LINES, DASHES, strict=False
    ):
        thin = curve.thinned()
        marker = "o" if len(thin.values) < _FEW_POINTS else None
        (line,) = axis.plot(thin.steps, thin.values, color=colour, linewidth=1.4, label=label)
        line.set_marker(marker or "")
        line.set_markersize(3)
        if dash:
            line.set_dashes(dash)

    if panel.is_log:
        axis.set_yscale("log")
        # Powers of ten would be formulas, and `$` begins none here.
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    axis.set_title(_short(panel.title) + (" (log)" if panel.is_log else ""), fontsize=9, loc="left")
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)
    if len(panel.curves) > 1:
        axis.legend(fontsize=7, framealpha=0.7)


def _short(text: str) -> str:
    return "".join(wrap(text, width=48, lines=1, measure=len))
