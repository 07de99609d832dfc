"""Which curves share a panel, and which panels matter most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from align_train.figures.curves import Curve

MOST_PANELS = 12

GROUPS = ("training", "evaluation", "speed and memory")

# Of one panel; there are as many colours.
_MOST_CURVES = 5

_TRAINING = {
    "grad_norm": "gradient norm",
    "lr": "learning rate",
    "temperature": "temperature",
}
_SPEED = {
    "pairs_per_second": "pairs a second",
    "data_wait_fraction": "share of time waiting for data",
}
_REPLACED = {"bad_pairs": "pairs replaced so far"}

# The least telling ones, in this order after all others.
_LESS = {
    "mfu": "share of the peak FLOP/s",
    "memory_gb": "memory, GB",
    "step_seconds": "seconds a step",
    "tflops_per_device": "TFLOP/s a device",
    "pairs_per_second_per_device": "pairs a second and device",
    "rank_spread": "slowest rank / median",
    "slowest_rank": "slowest rank",
    "most_waiting_rank": "rank that waits most",
    "eta_seconds": "seconds to go",
}

# Values as far apart as this want a logarithmic axis.
_WIDE = 50.0
_NEVER_LOG = ("lr", "temperature")


class Panel(NamedTuple):
    """Curves that are drawn in one place.

    Attributes:
        title: What they show.
        group: One of `GROUPS`.
        curves: At most five.
    """

    title: str
    group: str
    curves: tuple[Curve, ...]

    @property
    def is_log(self) -> bool:
        """Whether a logarithmic axis shows more."""
        if any(curve.name in _NEVER_LOG for curve in self.curves):
            return False
        least = min(float(curve.values.min()) for curve in self.curves)
        most = max(float(curve.values.max()) for curve in self.curves)
        # Of shares the distance to 1 says as much as that to 0.
        return least > 0 and most > 1 and most / least >= _WIDE

    def labels(self) -> list[str]:
        """The names of the curves, without what the title says."""
        return [curve.name.removeprefix(f"{self.title}/") for curve in self.curves]


def panels_of(curves: Iterable[Curve]) -> list[Panel]:
    """Puts curves into panels, the most telling first.

    Args:
        curves: Those that are no curves (`Curve.is_drawn`) are left out.
    """
    # Each curve is taken out of these by the first panel that wants it.
    left = {curve.name: curve for curve in curves if curve.is_drawn}

    losses = [name for name in left if name.rpartition("/")[2] == "loss"]
    first = _together("loss", GROUPS[0], [left.pop(name) for name in losses])
    training = first + _named(left, _TRAINING, GROUPS[0])
    speed = _named(left, _SPEED, GROUPS[2])
    replaced = _named(left, _REPLACED, GROUPS[2])
    less = _named(left, _LESS, GROUPS[2])

    evaluation = _evaluation([curve for name, curve in left.items() if "/" in name])
    others = [Panel(name, GROUPS[0], (curve,)) for name, curve in left.items() if "/" not in name]

    # One panel of each evaluator, before the second one of any.
    seen: set[str] = set()
    main: list[Panel] = []
    more: list[Panel] = []
    for panel in evaluation:
        evaluator = panel.curves[0].name.partition("/")[0]
        (more if evaluator in seen else main).append(panel)
        seen.add(evaluator)
    return [*training, *speed, *main, *replaced, *more, *others, *less]


def by_group(panels: Sequence[Panel]) -> dict[str, list[Panel]]:
    """Sorts panels into their groups, in the order of `GROUPS`; groups without any are left out."""
    groups = {}
    for group in GROUPS:
        members = [panel for panel in panels if panel.group == group]
        if members:
            groups[group] = members
    return groups


def _named(left: dict[str, Curve], titles: dict[str, str], group: str) -> list[Panel]:
    """Takes curves of known names out of those that are left."""
    names = [name for name in titles if name in left]
    return [Panel(titles[name], group, (left.pop(name),)) for name in names]


def _together(title: str, group: str, curves: Sequence[Curve]) -> list[Panel]:
    """As many panels as these curves need."""
    panels = []
    for start in range(0, len(curves), _MOST_CURVES):
        panels.append(Panel(title, group, tuple(curves[start : start + _MOST_CURVES])))
    return panels


def _evaluation(curves: Sequence[Curve]) -> list[Panel]:
    """Metrics of one place and one kind share a panel; places with one metric share theirs too."""
    places: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        place = curve.name.rpartition("/")[0]
        places.setdefault((place, _kind(curve)), []).append(curve)

    shared: dict[tuple[str, str], list[Curve]] = {}
    for (place, kind), members in places.items():
        if len(members) == 1:
            place = place.partition("/")[0]
        shared.setdefault((place, kind), []).extend(members)

    panels = []
    for (place, _), members in shared.items():
        for panel in _together(place, GROUPS[1], members):
            one = len(panel.curves) == 1
            panels.append(panel._replace(title=panel.curves[0].name) if one else panel)
    return panels


def _kind(curve: Curve) -> str:
    """What can share an axis: ranks, shares; any other metric is alone on its own."""
    if curve.name.endswith("_rank"):
        return "rank"
    is_share = curve.values.min() >= 0 and curve.values.max() <= 1
    return "share" if is_share else curve.name
