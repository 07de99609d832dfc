"""What a report shows of a run: read from its folder, whatever is there of it.

A run that was killed, is still running or is of an earlier version lacks some files. Each part says
so, and keeps none of the others back. Paths and credentials stay out: a report is made to be
shared.

Price: metrics.csv and the lists of bad pairs are read once, line by line.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from align_train.commands.report_faults import Faults, Row, is_mapping, read_faults
from align_train.commands.report_settings import Setting, differences, read_settings
from align_train.figures.curves import Curve, read_curves
from align_train.pretrained.published import published
from align_train.run.folder import RunFolder, step_of

_FIRST = 20  # mistaken classes that are listed

_DIGITS = 20  # a whole number of more is shown as it is

_GIGA = 1e9


@dataclass
class RunFacts:
    """What is known of a run.

    Attributes:
        name: The run's name.
        folder: Its files.
        missing: What is not there, a line each.
        settings: By dotted key, as they may be published.
        differs: Those that differ from the defaults.
        curves: The columns of metrics.csv.
        last: The last row of metrics.csv.
        seconds: Of all logged steps; None: not known.
        results: The last evaluation, as results.json has it.
        sets: The rows of sets.csv.
        stretches: From which step on which data held, from the lineage.
        changes: Settings that a later start changed.
        checkpoints: Name, step, size in GB and whether a link names it.
        bad_pairs: Pairs that were replaced.
        non_finite: Pairs of steps that were not finite.
        mistaken: Of each zero-shot evaluation the classes with most mistakes.
        files: The names of the files in the folder.
    """

    name: str
    folder: RunFolder
    missing: list[str] = field(default_factory=list)
    settings: dict[str, object] = field(default_factory=dict)
    differs: list[Setting] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    last: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    results: dict[str, object] = field(default_factory=dict)
    sets: list[dict[str, str]] = field(default_factory=list)
    stretches: list[dict[str, object]] = field(default_factory=list)
    changes: list[Row] = field(default_factory=list)
    checkpoints: list[Row] = field(default_factory=list)
    bad_pairs: Faults | None = None
    non_finite: Faults | None = None
    mistaken: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    @property
    def steps(self) -> str:
        """How far it has come, of how many steps."""
        planned = self.settings.get("max_steps")
        done = self.last.get("step") or str(self.checkpoints[-1]["step"] if self.checkpoints else 0)
        return f"{_counted(done)} of {_counted(planned)}" if planned else _counted(done)

    @property
    def pairs(self) -> str:
        """The pairs that it has seen."""
        return _counted(self.last.get("pairs_seen")) or "not known"

    @property
    def time(self) -> str:
        """How long its steps took."""
        return "not known" if self.seconds is None else spell_seconds(self.seconds)


def facts_of(folder: RunFolder, name: str) -> RunFacts:
    """Reads a run's folder.

    Args:
        folder: The folder; it is there.
        name: The run's name.
    """
    facts = RunFacts(name, folder)
    parts = {
        "config.yaml": _read_settings,
        "metrics.csv": _read_metrics,
        "results.json": _read_results,
        "lineage.jsonl": _read_lineage,
        "the checkpoints": _read_checkpoints,
        "the lists of faults": _read_faults,
        "the tables of classes": _read_mistaken,
    }
    for what, read in parts.items():
        try:
            read(facts)
        # A hand may have left a number that no float holds, or JSON of a thousand levels.
        except (OSError, ValueError, OverflowError, RecursionError):
            facts.missing.append(f"{what} cannot be read")

    facts.files = sorted(path.name for path in folder.path.iterdir() if path.name[0] != ".")
    return facts


def spell_seconds(seconds: float) -> str:
    """Spells a time: `3 min 21 s`, `2 d 4 h`."""
    left = round(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def _read_settings(facts: RunFacts) -> None:
    if not facts.folder.config.is_file():
        facts.missing.append("no config.yaml: the settings are not known")
        return
    facts.settings = read_settings(facts.folder.config)
    found = differences(facts.settings)
    if found is None:
        facts.missing.append("the defaults cannot be composed: no differences from them")
    facts.differs = found or []


def _read_metrics(facts: RunFacts) -> None:
    if not facts.folder.metrics.is_file():
        facts.missing.append("no metrics.csv: no step has been logged")
        return

    def rows() -> Iterator[dict[str, str]]:
        for row in _csv(facts.folder.metrics):
            # A torn row may lack its step, and then has no place on the axis.
            if (row.get("step") or "").isdecimal():
                facts.last = row
                yield row

    facts.curves = read_curves(rows())
    if not facts.curves:
        facts.missing.append("metrics.csv has no rows")
    seconds = [curve for curve in facts.curves if curve.name == "step_seconds"]
    if seconds:
        # Each value is the mean since the row before it.
        before = 0
        total = 0.0
        for step, value in zip(seconds[0].steps.tolist(), seconds[0].values.tolist(), strict=True):
            total += value * (step - before)
            before = step
        facts.seconds = total if math.isfinite(total) else None


def _read_results(facts: RunFacts) -> None:
    if not facts.folder.results.is_file():
        facts.missing.append("no results.json: the run has not been evaluated")
    elif (results := facts.folder.read_results()) is None:
        facts.missing.append("results.json cannot be read")
    else:
        facts.results = results
    if facts.folder.sets_csv.is_file():
        facts.sets = list(_csv(facts.folder.sets_csv))


def _read_lineage(facts: RunFacts) -> None:
    # A pipe would be waited for.
    lines = facts.folder.lineage.read() if facts.folder.lineage.path.is_file() else []
    if not lines:
        facts.missing.append("no lineage.jsonl: the run has not begun")
    for line in filter(is_mapping, lines):
        if "changed" in line:
            facts.changes += _changes(line)
        elif "schedule" in line:
            told = json.dumps(line["schedule"])
            facts.changes.append(_change(line, "the schedule begins anew", "", told))
        else:
            facts.stretches.append(published(line))


def _changes(line: Row) -> Iterator[Row]:
    changed = line["changed"]
    for key, pair in changed.items() if isinstance(changed, dict) else ():
        # Paths are known by the last word of a key.
        last = str(key).rpartition(".")[2]
        before, now = pair if isinstance(pair, list) and len(pair) == 2 else (None, pair)
        yield _change(line, key, published({last: before})[last], published({last: now})[last])


def _change(line: Row, key: str, before: object, now: object) -> Row:
    return {"step": line.get("step"), "key": key, "before": before, "now": now}


def _read_checkpoints(facts: RunFacts) -> None:
    folder = facts.folder
    named: dict[str, list[str]] = {}
    for link in ("last", "best"):
        path = folder.checkpoints / link
        # A link whose checkpoint is gone names nothing.
        if path.exists():
            named.setdefault(path.resolve().name, []).append(link)

    saved = folder.saved_checkpoints()
    for path in saved:
        size = path.stat().st_size / _GIGA
        about = {"name": path.name, "step": step_of(path), "gb": f"{size:.3f}"}
        facts.checkpoints.append(about | {"named": ", ".join(named.get(path.name, []))})
    if not saved:
        facts.missing.append("no checkpoint")


def _read_faults(facts: RunFacts) -> None:
    facts.bad_pairs = read_faults(facts.folder.bad_pairs)
    facts.non_finite = read_faults(facts.folder.non_finite)


def _read_mistaken(facts: RunFacts) -> None:
    for path in sorted(facts.folder.path.glob("*_classes.csv")):
        rows = [row for row in _csv(path) if row.get("top1")]
        # As texts: all have four decimals, and so sort like numbers.
        rows.sort(key=lambda row: row["top1"] or "")
        facts.mistaken[path.name.removesuffix("_classes.csv")] = rows[:_FIRST]


def _csv(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table. A torn one has less cells; what follows a zero byte stays out."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        try:
            yield from csv.DictReader(line for line in file if "\0" not in line)
        except csv.Error:
            return


def _counted(number: object) -> str:
    """Spells a whole number with commas; other texts as they are."""
    text = "" if number is None else str(number)
    return f"{int(text):,}" if text.isdecimal() and len(text) < _DIGITS else text
