"""The sections of a report: of one run, or of several side by side."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from align_train.commands.report_charts import Chart, charts_of, common_charts
from align_train.commands.report_facts import RunFacts
from align_train.commands.report_faults import Faults
from align_train.commands.report_settings import by_group, differing, spell_setting
from align_train.figures.curves import MOST_POINTS, notes_of, spell
from align_train.figures.html.page import embedded

Part = dict[str, Any]
"""What the template shows by its `kind`."""

# The ends of the names of an evaluator's images that show its mistakes.
_MISTAKES = ("_mistakes", "_confusion")

_MOST_IMAGES = 40  # a folder of a user's own drawings may have thousands
_MOST_SHEETS = 3  # of batches; the first ones


def page_of(run: RunFacts, *, links: bool) -> tuple[dict[str, object], list[Chart]]:
    """Makes the page of one run.

    Args:
        run: What is known of it.
        links: Whether the file lies in the run's folder, so that it can link to files there.

    Returns:
        What the template shows, and the curves.
    """
    charts = charts_of(run.curves)
    hits, mistakes = _images(run)
    sections = [
        _section("overview", "Overview", _overview([run]) + _missing([run])),
        _section("recipe", "Recipe: what differs from the defaults", _recipe(run)),
        _section("curves", "Curves", _curves([run], charts)),
        _section("results", "Results", _results([run]) + _sets(run)),
        _section("batch", "The first batch", _first_batch(run)),
        _section("hits", "Hits and answers", hits),
        _section("mistakes", "Worst mistakes", mistakes + _mistaken(run)),
        _section("faults", "Faults", _faults(run)),
        _section("lineage", "Lineage", _lineage(run)),
        _section("files", "Files", _files(run, links=links)),
    ]
    return {"title": run.name, "sections": sections}, charts


def comparison_of(runs: Sequence[RunFacts], beside: Path) -> tuple[dict[str, object], list[Chart]]:
    """Makes the page of several runs side by side.

    Args:
        runs: What is known of each.
        beside: The folder of the file.

    Returns:
        What the template shows, and the curves, of all runs in each panel.
    """
    names = [run.name for run in runs]
    charts = common_charts(runs)
    differs = differing([run.settings for run in runs])
    rows = [[key, *values] for key, values in differs]
    recipe = [_table(rows, ["setting", *names])] if rows else [_text("Nothing differs.")]

    # Relative: the links still hold if the folder of all runs is moved.
    own = [
        os.path.relpath(run.folder.report, beside) for run in runs if run.folder.report.is_file()
    ]
    reports = [{"kind": "links", "names": own}] if own else [_text("No run has one.")]
    sections = [
        _section("overview", "Overview", _overview(runs) + _missing(runs)),
        _section("recipe", "Recipe: settings that differ", recipe),
        _section("results", "Results", _results(runs)),
        _section("curves", "Curves", _curves(runs, charts)),
        _section("files", "Reports of the runs", reports),
    ]
    return {"title": f"{len(runs)} runs: {', '.join(names)}", "sections": sections}, charts


def _overview(runs: Sequence[RunFacts]) -> list[Part]:
    rows = [
        ["steps", *(run.steps for run in runs)],
        ["pairs seen", *(run.pairs for run in runs)],
        ["time of all steps", *(run.time for run in runs)],
        ["global batch", *(spell_setting(run.settings.get("batch_size")) for run in runs)],
        ["model", *(_target(run, "model") for run in runs)],
        ["loss", *(_target(run, "loss") for run in runs)],
        ["optimizer", *(_target(run, "optimizer") for run in runs)],
        ["pairs of the data", *(_pairs_of_data(run) for run in runs)],
        ["pairs replaced", *(_count(run.bad_pairs) for run in runs)],
        ["pairs that gave no finite number", *(_count(run.non_finite) for run in runs)],
    ]
    head = ["", *(run.name for run in runs)] if len(runs) > 1 else None
    return [_table(rows, head)]


def _missing(runs: Sequence[RunFacts]) -> list[Part]:
    lines = []
    for run in runs:
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        lines += [prefix + line for line in run.missing]
    return [{"kind": "missing", "lines": lines}] if lines else []


def _recipe(run: RunFacts) -> list[Part]:
    if not run.settings:
        return [_note("The settings are not known.")]
    rows = [[setting.key, *setting.values] for setting in run.differs]
    head = ["setting", "value", "default"]
    parts = [_table(rows, head, id="differs")] if rows else [_text("Nothing differs.")]
    parts.append({"kind": "heading", "text": "All settings"})
    for group, members in by_group(run.settings).items():
        rows = [[setting.key, *setting.values] for setting in members]
        folded = _table(rows) | {"kind": "folded", "text": f"{group} ({len(rows)})"}
        parts.append(folded)
    return parts


def _curves(runs: Sequence[RunFacts], charts: Sequence[Chart]) -> list[Part]:
    parts: list[Part] = [{"kind": "curves"}]
    if not charts:
        parts = [_note("There are no curves: no column of metrics.csv has two values that differ.")]
    curves = chain.from_iterable(run.curves for run in runs)
    if any(len(curve.values) > MOST_POINTS for curve in curves):
        parts.append(
            _text(
                f"Each curve has at most {MOST_POINTS:,} points: the least and the greatest value "
                f"of each stretch of steps. metrics.csv has all of them."
            )
        )
    for run in runs:
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        parts += [_text(prefix + note) for note in notes_of(run.curves)]
    return parts


def _results(runs: Sequence[RunFacts]) -> list[Part]:
    # In the order of the first run, which others may add to.
    names = dict.fromkeys(chain.from_iterable(run.results for run in runs))
    if not names:
        return [_note("There are no results yet; `align-train evaluate` makes them.")]
    rows = []
    for name in names:
        rows.append([name, *(_number(run.results.get(name)) for run in runs)])
    head = ["", *(run.name for run in runs)] if len(runs) > 1 else None
    return [_table(rows, head, id="numbers", numbers=True)]


def _sets(run: RunFacts) -> list[Part]:
    if not run.sets:
        return []
    head = [name for name in run.sets[0] if any(row.get(name) for row in run.sets)]
    # As in sets.md: the name first.
    head.sort(key=lambda name: name != "dataset")
    rows = [_cells(row, head) for row in run.sets]
    return [{"kind": "heading", "text": "Evaluation sets"}, _table(rows, head, id="sets")]


def _cells(row: Mapping[str, str], columns: Iterable[str]) -> list[str]:
    return [row.get(column) or "" for column in columns]


def _first_batch(run: RunFacts) -> list[Part]:
    sheets = sorted(run.folder.batches.glob("step-*.png"))[:_MOST_SHEETS]
    return _embedded(sheets, run) or [_note("There is no contact sheet of a batch.")]


def _images(run: RunFacts) -> tuple[list[Part], list[Part]]:
    """The images of evaluators: hits and answers, and mistakes."""
    # A pipe would be waited for.
    found = [path for path in run.folder.path.glob("*.png") if path.is_file()]
    paths = [path for path in found if path != run.folder.curves]
    others = sorted(paths)[:_MOST_IMAGES]
    mistakes = [path for path in others if path.stem.endswith(_MISTAKES)]
    # The worst answers before the table of all.
    mistakes.sort(key=lambda path: not path.stem.endswith(_MISTAKES[0]))
    hits = [path for path in others if path not in mistakes]
    none = [_note("No evaluation has drawn any image.")]
    more = len(paths) - len(others)
    rest = [_text(f"{more:,} more images lie in the run's folder.")] if more else []
    return _embedded(hits, run) + rest or none, _embedded(mistakes, run) or none


def _embedded(paths: Iterable[Path], run: RunFacts) -> list[Part]:
    parts = []
    for path in paths:
        name = path.relative_to(run.folder.path).as_posix()
        source = embedded(path)
        if source is None:
            parts.append(_note(f"{name} cannot be read"))
        else:
            parts.append({"kind": "image", "name": name, "source": source})
    return parts


def _mistaken(run: RunFacts) -> list[Part]:
    parts: list[Part] = []
    for name, rows in run.mistaken.items():
        if rows:
            parts.append({"kind": "heading", "text": f"{name}: the classes with most mistakes"})
            parts.append(_table([_cells(row, row) for row in rows], list(rows[0])))
    return parts


def _faults(run: RunFacts) -> list[Part]:
    parts: list[Part] = []
    said = {"replaced": run.bad_pairs, "with no finite embedding": run.non_finite}
    for what, faults in said.items():
        if faults is None or not faults.count:
            parts.append(_text(f"Pairs {what}: none."))
            continue
        parts.append(_text(f"Pairs {what}: {faults.count:,}."))
        if faults.reasons:
            parts.append(_table([[f"{count:,}", reason] for reason, count in faults.reasons]))
        parts.append(_text(f"The first {len(faults.first)}:"))
        parts.append(_records(faults.first))
    return parts


def _records(records: Sequence[Mapping[str, object]]) -> Part:
    """A table of records that may have different keys: a column for each key of any record."""
    head = list(dict.fromkeys(chain.from_iterable(records)))
    rows = []
    for record in records:
        rows.append([spell_setting(record.get(key, "")) for key in head])
    return _table(rows, head)


def _lineage(run: RunFacts) -> list[Part]:
    if not run.stretches:
        return [_note("The lineage is not known.")]
    parts = [_text("From which finished step on which data held:"), _records(run.stretches)]
    if run.changes:
        parts.append(_text("What later starts changed:"))
        changed = ("step", "key", "before", "now")
        parts.append(_records([{key: change[key] for key in changed} for change in run.changes]))
    return parts


def _files(run: RunFacts, *, links: bool) -> list[Part]:
    parts: list[Part] = []
    if run.checkpoints:
        rows = [[row["name"], row["gb"], row["named"]] for row in run.checkpoints]
        parts.append(_table(rows, ["checkpoint", "GB", "named by"]))
    # A report that lies elsewhere cannot link, but may name.
    kind: Part = {"kind": "links", "names": run.files}
    return [*parts, kind if links else _text(", ".join(run.files))]


def _target(run: RunFacts, group: str) -> str:
    """The class that a group builds, without its module."""
    return str(run.settings.get(f"{group}._target_", "not known")).rpartition(".")[2]


def _pairs_of_data(run: RunFacts) -> str:
    # Of the last stretch, as earlier ones may have had other data.
    pairs = run.stretches[-1].get("pairs") if run.stretches else None
    return f"{pairs:,}" if isinstance(pairs, int) else "not known"


def _count(faults: Faults | None) -> str:
    return f"{faults.count:,}" if faults else "0"


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    # JSON has whole numbers that no float can hold.
    return spell(value) if abs(value) <= sys.float_info.max else str(value)


def _section(key: str, title: str, parts: Sequence[Part]) -> Mapping[str, object]:
    return {"id": key, "title": title, "parts": parts}


def _table(
    rows: Sequence[Sequence[str]],
    head: Sequence[str] | None = None,
    *,
    id: str = "",
    numbers: bool = False,
) -> Part:
    return {"kind": "table", "rows": rows, "head": head, "id": id, "numbers": numbers}


def _text(text: str) -> Part:
    return {"kind": "text", "text": text}


def _note(text: str) -> Part:
    return {"kind": "note", "text": text}
