"""The picture of a search: the value of each trial, and beside it by each parameter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from align_train.errors import shown
from align_train.figures.colours import LINES
from align_train.figures.plots import new_figure, save_figure

_PANELS_IN_A_ROW = 3
_PANEL = (3.6, 2.8)  # inches
_LONGEST_NAME = 40  # characters


class Parameter(NamedTuple):
    """What differs between trials.

    Attributes:
        name: Its key.
        values: One for each trial: all numbers, or all texts.
        log: Whether to draw numbers on a logarithmic axis.
    """

    name: str
    values: Sequence[float | str]
    log: bool


def draw_trials(
    values: Sequence[tuple[int, float]],
    parameters: Sequence[Parameter],
    path: Path,
    *,
    up: str,
    highest: bool,
) -> None:
    """Draws the values by trial, with the best so far, and by each parameter.

    Args:
        values: The number and the value of each trial, in their order; at least one.
        parameters: The parameters of these trials.
        path: The image.
        up: The label of the values.
        highest: Whether the highest value is the best.
    """
    panels = 1 + len(parameters)
    columns = min(panels, _PANELS_IN_A_ROW)
    rows = -(-panels // columns)
    figure = new_figure(_PANEL[0] * columns, _PANEL[1] * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)

    numbers = [number for number, _ in values]
    heights = [value for _, value in values]
    best = max if highest else min
    so_far = [best(heights[: end + 1]) for end in range(len(heights))]
    winner = heights.index(best(heights))

    first, *others = axes
    first.plot(numbers, so_far, color=LINES[1], drawstyle="steps-post", label="best so far")
    first.plot(numbers, heights, "o", markersize=4, color=LINES[0])
    first.set_xlabel("trial")
    first.legend(fontsize=8)
    for axis, parameter in zip(others, parameters, strict=False):
        axis.plot(parameter.values, heights, "o", markersize=4, color=LINES[0])
        axis.plot([parameter.values[winner]], [heights[winner]], "*", color=LINES[1])
        if parameter.log:
            axis.set_xscale("log")
            # Powers of ten would be formulas, and `$` begins none here.
            axis.xaxis.set_major_formatter("{x:g}")
            axis.minorticks_off()
        axis.set_xlabel(shown(parameter.name, _LONGEST_NAME))

    for axis in others[len(parameters) :]:
        axis.set_axis_off()
    for axis in axes[:panels]:
        axis.grid(alpha=0.3)
    first.set_ylabel(shown(up, _LONGEST_NAME), fontsize=8)
    save_figure(figure, path, dpi=110, tight=True)
