"""The curves of a report: of one run in panels of several, of several runs by column."""

from __future__ import annotations

from collections.abc import Sequence

from align_train.commands.report_facts import RunFacts
from align_train.figures.colours import DASHES, LINES
from align_train.figures.curves import Curve
from align_train.figures.html.page import chart
from align_train.figures.panels import by_group, panels_of

Chart = dict[str, object]
"""What the page's script draws."""


def charts_of(curves: Sequence[Curve]) -> list[Chart]:
    """Draws the curves of one run: those that belong together share a panel.

    Args:
        curves: All of them.
    """
    charts = []
    for group, panels in by_group(panels_of(curves)).items():
        for panel in panels:
            lines = [
                _line(label, curve)
                for label, curve in zip(panel.labels(), panel.curves, strict=True)
            ]
            charts.append(
                chart(
                    panel.title,
                    lines,
                    colours=LINES[: len(lines)],
                    dashes=DASHES[: len(lines)],
                    log=panel.is_log,
                    group=group,
                )
            )
    return charts


def common_charts(runs: Sequence[RunFacts]) -> list[Chart]:
    """Draws a panel for each column that some run has, with the curves of all runs.

    Args:
        runs: What is known of each.
    """
    # The first run that draws a column decides on its panel and its axis.
    of_name: dict[str, Curve] = {}
    for run in runs:
        for curve in run.curves:
            if curve.is_drawn:
                of_name.setdefault(curve.name, curve)

    charts = []
    for group, panels in by_group(panels_of(of_name.values())).items():
        for panel in panels:
            for curve in panel.curves:
                charts.append(_common_chart(curve.name, runs, log=panel.is_log, group=group))
    return charts


def _common_chart(name: str, runs: Sequence[RunFacts], *, log: bool, group: str) -> Chart:
    """One column of all runs that have it. A run has its colour and its dashes in all panels."""
    lines = []
    colours = []
    dashes = []
    for place, run in enumerate(runs):
        for curve in run.curves:
            if curve.name == name and len(curve.values):
                lines.append(_line(run.name, curve))
                colours.append(LINES[place % len(LINES)])
                # Of two runs with one colour the dashes differ.
                dashes.append(DASHES[(place + place // len(LINES)) % len(DASHES)])
    return chart(name, lines, colours=colours, dashes=dashes, log=log, group=group)


def _line(label: str, curve: Curve) -> tuple[str, list[int], list[float]]:
    thin = curve.thinned()
    return label, thin.steps.tolist(), thin.values.tolist()
