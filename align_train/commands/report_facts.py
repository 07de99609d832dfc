"""What a report shows of a run: read from its folder, whatever is there of it.

A run that was killed, is still running or is of an earlier version lacks some files. Each part says
so, and keeps none of the others back. Paths and credentials stay out: a report is made to be
shared.

Price: metrics.csv and the lists of bad pairs are read once, line by line.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align_train.commands.report_settings import Setting, differences, read_settings
from align_train.errors import UserError
from align_train.figures.curves import Curve, read_curves
from align_train.pretrained.published import published
from align_train.run.folder import RunFolder, step_of

_FIRST = 20  # bad pairs, non-finite steps and mistaken classes that are listed

_LONGEST = 300  # characters of a reason
_MOST_REASONS = 1000  # that are counted apart

_GIGA = 1e9

# A path of two names or more, of which the last one stays; a URL's user and query are keys.
_PATH = re.compile(r"(?<![\w.:/])(?:~|\.{1,2})?(?:/[^\s/'\"():,;]+)+/([^\s/'\"():,;]+)")
_URL = re.compile(r"(\w+://)(?:[^\s/@]*@)?([^\s?#'\"]*)[^\s'\"]*")

Row = Mapping[str, Any]


@dataclass
class Faults:
    """Lines of bad_pairs.jsonl or non_finite.jsonl.

    Attributes:
        count: All of them.
        first: The first ones.
        reasons: How often each reason stands there, the most frequent first.
    """

    count: int
    first: Sequence[Row]
    reasons: Sequence[tuple[str, int]]


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
    results: dict[str, Any] = field(default_factory=dict)
    sets: list[dict[str, str]] = field(default_factory=list)
    stretches: list[dict[str, Any]] = field(default_factory=list)
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
    _read_settings(facts)
    _read_metrics(facts)
    _read_results(facts)
    _read_lineage(facts)
    _read_checkpoints(facts)

    facts.bad_pairs = _faults(folder.bad_pairs)
    facts.non_finite = _faults(folder.non_finite)
    facts.files = sorted(path.name for path in folder.path.iterdir() if path.name[0] != ".")
    for path in sorted(folder.path.glob("*_classes.csv")):
        rows = [row for row in _csv(path) if row.get("top1")]
        rows.sort(key=lambda row: row["top1"] or "")
        facts.mistaken[path.name.removesuffix("_classes.csv")] = rows[:_FIRST]
    return facts


def spell_seconds(seconds: float) -> str:
    """Spells a time: `3 min 21 s`, `2 d 4 h`."""
    left = round(seconds)
    parts = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def without_paths(text: str) -> str:
    """Takes folders, and users and queries of URLs, out of a library's message."""
    return _PATH.sub(r"\1", _URL.sub(r"\1\2", text))


def _read_settings(facts: RunFacts) -> None:
    try:
        facts.settings = read_settings(facts.folder.config)
    except UserError:
        facts.missing.append("config.yaml cannot be read: no settings")
        return
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
        facts.seconds = 0.0
        for step, value in zip(seconds[0].steps.tolist(), seconds[0].values.tolist(), strict=True):
            facts.seconds += value * (step - before)
            before = step


def _read_results(facts: RunFacts) -> None:
    results = facts.folder.read_results()
    if results is None:
        facts.missing.append("no results.json: the run has not been evaluated")
    facts.results = results or {}
    if facts.folder.sets_csv.is_file():
        facts.sets = list(_csv(facts.folder.sets_csv))


def _read_lineage(facts: RunFacts) -> None:
    try:
        lines = facts.folder.lineage.read()
    except (ValueError, OSError):
        facts.missing.append("lineage.jsonl cannot be read")
        return
    if not lines:
        facts.missing.append("no lineage.jsonl: the run has not begun")
    for line in lines:
        if not isinstance(line, dict):
            continue
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
        if path.exists():
            named.setdefault(path.resolve().name, []).append(link)

    saved = folder.saved_checkpoints()
    for path in saved:
        size = path.stat().st_size / _GIGA
        about = {"name": path.name, "step": step_of(path), "gb": f"{size:.3f}"}
        facts.checkpoints.append(about | {"named": ", ".join(named.get(path.name, []))})
    if not saved:
        facts.missing.append("no checkpoint")


def _faults(path: Path) -> Faults | None:
    """Reads a list of faults; None: there is none. A torn line counts as one."""
    if not path.is_file():
        return None
    count = 0
    first: list[Row] = []
    reasons: Counter[str] = Counter()
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            count += 1
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            if not isinstance(line, dict):
                line = {"reason": "a torn line"}
            if "reason" in line:
                line["reason"] = without_paths(str(line["reason"])[:_LONGEST])
                if len(reasons) < _MOST_REASONS or line["reason"] in reasons:
                    reasons[line["reason"]] += 1
            if len(first) < _FIRST:
                first.append(line)
    return Faults(count, first, reasons.most_common(_FIRST))


def _csv(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table. A torn one has less cells; what follows a zero byte stays out."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        try:
            yield from csv.DictReader(line for line in file if "\0" not in line)
        except csv.Error:
            return


def _counted(number: object) -> str:
    """Spells a whole number with commas; other texts as they are."""
    text = "" if number is None else str(number)
    return f"{int(text):,}" if text.isdecimal() else text
