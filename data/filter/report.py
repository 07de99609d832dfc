"""The filter's report: the rows that each rule drops, alone and after the rules before it.

It is written as JSON, as a Markdown table with examples, and as an image.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from align_train.figures.plots import draw_bars
from align_train.files import write_whole

from .rules import bits

_LONGEST_EXAMPLE = 120  # characters of a text in the Markdown
_FIX = "free some space, or choose another folder with to=…"


class RuleFacts(TypedDict, total=False):
    """Further numbers of some rules.

    Attributes:
        least_count: How often a frequent token occurs at least.
        frequent_tokens: The number of frequent tokens.
        tokens: The number of all tokens.
        without_value: Rows that a rule on a column cannot judge: a null, a NaN, no score, no group.
        least: The column's least value; in JSON an infinity is a text.
        most: The column's largest value.
        begins_at: The least value that is among the best.
        groups: The groups of which the best are kept.
        listed: Different uids in the list.
        found: Those of them that the source has.
    """

    least_count: int
    frequent_tokens: int
    tokens: int
    without_value: int
    least: float | str | None
    most: float | str | None
    begins_at: float | str | None
    groups: int
    listed: int
    found: int


class RuleReport(RuleFacts):
    """What one rule drops, in rows and as shares of all rows."""

    keeps: str
    dropped_alone: int
    dropped_alone_share: float
    dropped_in_sequence: int
    dropped_in_sequence_share: float
    left: int
    examples: list[dict[str, object]]


class Report(TypedDict):
    """The content of `report.json`."""

    rows: int
    kept: int
    kept_share: float
    rules: dict[str, RuleReport]
    not_applied: dict[str, str]


def summarise(
    counts: Mapping[int, int],
    rows: int,
    *,
    passes: Mapping[str, str],
    examples: Mapping[str, Sequence[Mapping[str, object]]],
    not_applied: Mapping[str, str],
    facts: Mapping[str, RuleFacts],
) -> Report:
    """Counts the rows that each rule drops.

    Args:
        counts: The number of rows for each mask of failed rules.
        rows: The number of all rows.
        passes: For each applied rule, in order, which rows pass it.
        examples: Rows that fail each rule.
        not_applied: Other rules, with the reason.
        facts: Further numbers of rules.
    """
    rules: dict[str, RuleReport] = {}
    left = rows

    # The bits of the rules that came earlier. A row counts in sequence for its first failed rule.
    before = 0

    bit = bits(list(passes))
    for name, keeps in passes.items():
        failing = {mask: count for mask, count in counts.items() if mask & bit[name]}
        alone = sum(failing.values())
        in_sequence = sum(count for mask, count in failing.items() if not mask & before)
        before |= bit[name]
        left -= in_sequence

        rules[name] = {
            "keeps": keeps,
            "dropped_alone": alone,
            "dropped_alone_share": alone / rows,
            "dropped_in_sequence": in_sequence,
            "dropped_in_sequence_share": in_sequence / rows,
            "left": left,
            "examples": [dict(example) for example in examples[name]],
            **facts.get(name, {}),
        }

    return {
        "rows": rows,
        "kept": left,
        "kept_share": left / rows,
        "rules": rules,
        "not_applied": dict(not_applied),
    }


def as_table(report: Report) -> str:
    """Makes a Markdown table of the report; it reads well in a terminal too."""
    lines = [
        "| rule | keeps | drops alone | | drops in sequence | | left |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for name, rule in report["rules"].items():
        alone = f"{rule['dropped_alone']:,} | {rule['dropped_alone_share']:.2%}"
        sequence = f"{rule['dropped_in_sequence']:,} | {rule['dropped_in_sequence_share']:.2%}"
        lines.append(f"| {name} | {rule['keeps']} | {alone} | {sequence} | {rule['left']:,} |")
    for name, reason in report["not_applied"].items():
        lines.append(f"| {name} | not applied: {reason} | | | | | |")

    kept = f"{report['kept']:,} of {report['rows']:,} rows are kept ({report['kept_share']:.2%})"
    notes = list(_notes(report))
    return "\n".join([*lines, "", kept, *(["", *notes] if notes else [])])


def _notes(report: Report) -> Iterator[str]:
    """What a rule's number may have been mistaken for: scales, lists, columns without values."""
    rows = report["rows"]
    for name, rule in report["rules"].items():
        if "listed" in rule:
            missing = rule["listed"] - rule["found"]
            yield (
                f"- {name}: {rule['found']:,} of {rule['listed']:,} listed are in the source, "
                f"{missing:,} are not"
            )

        # A mistaken scale, such as 28 for 0.28, keeps nothing: the column's range shows it.
        if rule["dropped_alone"] == rows:
            yield f"- {name} keeps 0 of {rows:,}{_range(rule)}"
        elif "without_value" in rule:
            yield f"- {name}: {rule['without_value']:,} rows without a value{_range(rule)}"


def _range(rule: RuleReport) -> str:
    """The numbers of a column, behind what a rule on it does."""
    if "without_value" not in rule:
        return ""
    if rule["least"] is None:
        return "; the column has no value"

    parts = [f"; the column runs from {_short(rule['least'])} to {_short(rule['most'])}"]
    if rule.get("begins_at") is not None:
        parts.append(f"the best begin at {_short(rule['begins_at'])}")
    if "groups" in rule:
        parts.append(f"groups: {rule['groups']:,}")
    return ", ".join(parts)


def _short(number: float | str | None) -> str:
    return f"{number:.6g}" if isinstance(number, float) else str(number)


def write(report: Report, folder: Path) -> None:
    """Writes `report.json`, `report.md` and `report.png`.

    Args:
        report: As `summarise` makes it.
        folder: A folder that exists.
    """
    # Examples may hold dates and decimals: json writes them as texts.
    text = json.dumps(_finite(report), indent=1, ensure_ascii=False, default=str)
    write_whole(folder / "report.json", text + "\n", fix=_FIX)

    parts = ["# What was dropped", as_table(report)]
    for name, rule in report["rules"].items():
        shown = ["- " + _example(example) for example in rule["examples"]]
        title = f"## Dropped by {name}: {rule['dropped_alone']:,}"
        parts.append("\n".join([title, "", *(shown or ["none"])]))
    write_whole(folder / "report.md", "\n\n".join(parts) + "\n", fix=_FIX)

    _draw(report, folder / "report.png")


def _finite(value: object) -> object:
    """The value with texts in place of NaN and infinity, which JSON has not."""
    if isinstance(value, Mapping):
        return {name: _finite(cell) for name, cell in value.items()}
    if isinstance(value, list):
        return [_finite(cell) for cell in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _example(row: Mapping[str, object]) -> str:
    cells: list[str] = []
    for name, value in row.items():
        shown = repr(value[:_LONGEST_EXAMPLE]) if isinstance(value, str) else str(value)
        cells.append(f"{name}: {shown}")
    return ", ".join(cells)


def _draw(report: Report, path: Path) -> None:
    rules = report["rules"].values()
    bars = {
        "alone": [100 * rule["dropped_alone_share"] for rule in rules],
        "in sequence": [100 * rule["dropped_in_sequence_share"] for rule in rules],
    }
    kept = f"{report['kept']:,} of {report['rows']:,} rows are kept ({report['kept_share']:.1%})"
    across = "% of all rows that the rule drops"
    draw_bars(list(report["rules"]), bars, path, title=kept, across=across)
