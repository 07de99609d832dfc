"""The columns of metrics.csv as curves: read, thinned out, and put together in panels.

What says nothing as a curve is none: a number that stays the same, one value alone, the axis
itself. Such columns are listed by name and value.

Price: two numbers of 8 bytes for each cell; a panel takes at most `MOST_POINTS` of a curve.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_POINTS = 2000
"""Of a curve that is drawn."""

_HUGE = 1e15  # a number from here on is spelled with an exponent
_LARGEST = 1e300  # an axis is as long as the difference of its ends, which must be finite
_MOST_STEPS = 2**53  # beyond, a browser cannot tell two steps apart

# No curves: each is the axis, or a function of it.
_AXES = ("step", "pairs_seen")


class Curve(NamedTuple):
    """The finite values of a column.

    Attributes:
        name: The column's.
        steps: int64 `[n]`, rising.
        values: float64 `[n]`.
        lost: How many values were not finite, or too large to draw.
    """

    name: str
    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    lost: int = 0

    @property
    def is_drawn(self) -> bool:
        """Whether there are two values that differ."""
        return len(self.values) > 1 and bool((self.values != self.values[0]).any())

    def thinned(self, most: int = MOST_POINTS) -> Curve:
        """Leaves out points that would not show: of each stretch the least and the most stay.

        Args:
            most: The most points to keep, at least 4.
        """
        if len(self.values) <= most:
            return self

        # The ends stay in any case.
        kept = [0, len(self.values) - 1]
        # Two points of each stretch, and both ends, are at most `most`.
        bounds = np.linspace(0, len(self.values), (most - 2) // 2 + 1).astype(np.int64)
        for begin, end in pairwise(bounds.tolist()):
            stretch = self.values[begin:end]
            kept += [begin + int(stretch.argmin()), begin + int(stretch.argmax())]
        # In order, and once: the least and the most of a stretch may be one point.
        places = np.unique(kept)
        return self._replace(steps=self.steps[places], values=self.values[places])


def read_curves(rows: Iterable[Mapping[str, str]]) -> list[Curve]:
    """Reads the rows of metrics.csv, in one pass.

    Args:
        rows: As text. An empty cell is no point; a row without a step, as a torn one, is left out.

    Returns:
        A curve for each column that has a value, in the order of the columns.
    """
    steps: dict[str, array[int]] = {}
    values: dict[str, array[float]] = {}
    for row in rows:
        step = _number(row.get("step"))
        if step is None or not 0 <= step < _MOST_STEPS:
            continue
        for name, text in row.items():
            value = None if name in _AXES else _number(text)
            # The order is that of the columns, whichever has its first value first.
            steps.setdefault(name, array("q"))
            values.setdefault(name, array("d"))
            if value is not None:
                steps[name].append(int(step))
                values[name].append(value)

    found = []
    for name in values:
        if values[name]:
            found.append(_curve(str(name), np.asarray(steps[name]), np.asarray(values[name])))
    return found


def _curve(name: str, steps: NDArray[np.int64], values: NDArray[np.float64]) -> Curve:
    finite = np.abs(values) < _LARGEST  # of a NaN, too, this is false
    return Curve(name, steps[finite], values[finite], lost=int((~finite).sum()))


def _number(text: object) -> float | None:
    """Reads a cell; None: it is empty, or no number."""
    if not isinstance(text, str) or not text:
        return None
    try:
        return float(text)
    except ValueError:
        return None


def spell(value: float) -> str:
    """Spells a number for people: `14,336`, `0.8579`, `0.00012`."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= _HUGE:
        return f"{value:.6g}"
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.4f}" if abs(value) >= 0.001 else f"{value:.3g}"


def notes_of(curves: Sequence[Curve]) -> list[str]:
    """Says in a line each: which columns are constant, have one value, or values not finite.

    Args:
        curves: All of them.
    """
    constant = []
    single = []
    lost = []
    for curve in curves:
        if curve.lost:
            lost.append(f"{curve.name} {curve.lost:,}")
        if curve.is_drawn or not len(curve.values):
            continue
        value = spell(float(curve.values[0]))
        if len(curve.values) > 1:
            constant.append(f"{curve.name} {value}")
        else:
            single.append(f"{curve.name} {value} (step {int(curve.steps[0]):,})")

    said = {"constant": constant, "one value": single, "values not finite, left out": lost}
    return [f"{what}: {'; '.join(names)}" for what, names in said.items() if names]
