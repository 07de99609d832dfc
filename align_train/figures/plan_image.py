"""plan.png: pairs a second and days over the number of GPUs, and each strategy's memory by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from align_train.figures.colours import DASHES, LINES
from align_train.figures.plots import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GB = 1e9

# Of the memory's parts; the hatches tell those apart that share a colour.
_HATCHES = ("", "////", "....", "xxxx")
_LEAST_SHARE = 0.01  # of the largest peak: smaller parts are drawn as one


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """A run on some number of GPUs.

    Attributes:
        gpus: How many.
        seconds_a_step: Of one optimizer step.
        pairs_a_second: Of all GPUs together.
        days: Of the whole run.
        cost: Of the whole run in dollars; None: no price is known.
        bound_by: What takes the largest part of a step.
        fits: Whether its memory fits the GPU.
    """

    gpus: int
    seconds_a_step: float
    pairs_a_second: float
    days: float
    cost: float | None
    bound_by: str
    fits: bool


def draw_plan(
    rows: Sequence[PlanRow],
    memory: Mapping[str, Mapping[str, int]],
    path: Path,
    *,
    memory_of_gpu: float,
    title: str,
) -> None:
    """Draws a plan.

    Args:
        rows: The run on several numbers of GPUs, in rising order; without any there is no image.
        memory: Strategy -> part -> bytes of one GPU.
        path: The image.
        memory_of_gpu: Bytes that a GPU has.
        title: The image's title.
    """
    if not rows:
        return
    figure = new_figure(13, 4.6)
    speed, days, parts = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    figure.suptitle(title, fontsize=12)

    rates = [row.pairs_a_second for row in rows]
    _draw_over_gpus(speed, rows, rates, "pairs a second")
    # As fast as the fewest GPUs, each: what links cost is the gap.
    ideal = [rates[0] * row.gpus / rows[0].gpus for row in rows]
    style = {"color": LINES[1], "linestyle": (0, DASHES[1])}
    speed.plot([row.gpus for row in rows], ideal, label="each as fast as the fewest", **style)
    speed.legend(fontsize=7)

    _draw_over_gpus(days, rows, [row.days for row in rows], "days")
    for row in rows:
        if row.cost is not None:
            point = (row.gpus, row.days)
            days.annotate(f"${row.cost:,.0f}", point, (3, 4), textcoords="offset points", size=7)

    _draw_memory(parts, memory, memory_of_gpu)
    save_figure(figure, path, dpi=110, tight=True)


def _draw_over_gpus(
    axis: Axes, rows: Sequence[PlanRow], values: Sequence[float], name: str
) -> None:
    """A line over the number of GPUs; open marks where the memory does not fit."""
    gpus = [row.gpus for row in rows]
    axis.plot(gpus, values, color=LINES[0], label="planned")
    for row, value in zip(rows, values, strict=True):
        face = LINES[0] if row.fits else "white"
        axis.plot(row.gpus, value, "o", markersize=5, color=LINES[0], markerfacecolor=face)

    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(gpus, [f"{number:,}" for number in gpus], fontsize=7, rotation=45)
    axis.yaxis.set_major_formatter("{x:,.10g}")
    axis.minorticks_off()
    axis.tick_params(axis="y", labelsize=7)
    axis.set_xlabel("GPUs")
    full = all(row.fits for row in rows)
    axis.set_title(name if full else f"{name} (open: memory does not fit)", fontsize=9)
    axis.grid(alpha=0.3)


def _draw_memory(axis: Axes, memory: Mapping[str, Mapping[str, int]], limit: float) -> None:
    """A bar for each strategy, of its parts one after the other, and a line at the limit."""
    bars = parts_in_gb(memory)
    places = np.arange(len(memory))
    left = np.zeros(len(memory))
    for index, (part, sizes) in enumerate(bars.items()):
        colour = LINES[index % len(LINES)]
        hatch = _HATCHES[index // len(LINES) % len(_HATCHES)]
        axis.barh(
            places, sizes, left=left, label=part, color=colour, hatch=hatch, edgecolor="white"
        )
        left += sizes

    axis.axvline(limit / _GB, color="black", linestyle=(0, (4, 2)), label="memory of the GPU")
    axis.set_yticks(places, list(memory), fontsize=7)
    axis.invert_yaxis()
    axis.set_title("GB of one GPU at its peak", fontsize=9)
    axis.tick_params(axis="x", labelsize=7)
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)


def parts_in_gb(memory: Mapping[str, Mapping[str, int]]) -> dict[str, list[float]]:
    """The parts of all strategies, with the small ones as one.

    Args:
        memory: Strategy -> part -> bytes.

    Returns:
        Part -> GB under each strategy. Those of one strategy add up to its bytes.
    """
    names = list(dict.fromkeys(chain.from_iterable(memory.values())))
    most = max((sum(parts.values()) for parts in memory.values()), default=0)
    sizes: dict[str, list[float]] = {}
    rest = [0.0 for _ in memory]
    for name in names:
        of_part = [parts.get(name, 0) / _GB for parts in memory.values()]
        if max(of_part) * _GB >= _LEAST_SHARE * most:
            sizes[name] = of_part
        else:
            rest = [old + new for old, new in zip(rest, of_part, strict=True)]
    if any(rest):
        sizes["all else"] = rest
    return sizes
