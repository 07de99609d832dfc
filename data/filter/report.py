"""The filter's report: the rows that each rule drops, alone and after the rules before it.

It is written as JSON, as a Markdown table with examples, and as an image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

from align_train.files import write_whole

from .rules import bit

_LONGEST_EXAMPLE = 120  # characters of a text in the Markdown
_FIX = "free some space, or choose another folder with to=…"


class RareTokens(TypedDict):
    """The counts of tokens: how often a frequent one occurs at least, the frequent ones, all."""

    least_count: int
    frequent_tokens: int
    tokens: int


class RuleReport(TypedDict):
    """What one rule drops, in rows and as shares of all rows."""

    keeps: str
    dropped_alone: int
    dropped_alone_share: float
    dropped_in_sequence: int
    dropped_in_sequence_share: float
    left: int
    examples: list[dict[str, object]]
    # Those of `RareTokens`, for that rule only.
    least_count: NotRequired[int]
    frequent_tokens: NotRequired[int]
    tokens: NotRequired[int]


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
    rare: RareTokens | None = None,
) -> Report:
    """Counts the rows that each rule drops.

    Args:
        counts: The number of rows for each mask of failed rules.
        rows: The number of all rows.
        passes: For each applied rule, in order, which rows pass it.
        examples: Rows that fail each rule.
        not_applied: Other rules, with the reason.
        rare: The counts of tokens, if the rule on rare tokens was applied.
    """
    rules: dict[str, RuleReport] = {}
    left = rows

    # The bits of the rules that came earlier. A row counts in sequence for its first failed rule.
    before = 0

    for name, keeps in passes.items():
        failing = {mask: count for mask, count in counts.items() if mask & bit(name)}
        alone = sum(failing.values())
        in_sequence = sum(count for mask, count in failing.items() if not mask & before)
        before |= bit(name)
        left -= in_sequence

        rules[name] = {
            "keeps": keeps,
            "dropped_alone": alone,
            "dropped_alone_share": alone / rows,
            "dropped_in_sequence": in_sequence,
            "dropped_in_sequence_share": in_sequence / rows,
            "left": left,
            "examples": [dict(example) for example in examples[name]],
        }

    if rare is not None:
        rule = rules["rare_tokens"]
        rule["least_count"] = rare["least_count"]
        rule["frequent_tokens"] = rare["frequent_tokens"]
        rule["tokens"] = rare["tokens"]
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
    return "\n".join([*lines, "", kept])


def write(report: Report, folder: Path) -> None:
    """Writes `report.json`, `report.md` and `report.png`.

    Args:
        report: As `summarise` makes it.
        folder: A folder that exists.
    """
    # Examples may hold dates and decimals: json writes them as texts.
    text = json.dumps(report, indent=1, ensure_ascii=False, default=str)
    write_whole(folder / "report.json", text + "\n", fix=_FIX)

    parts = ["# What was dropped", as_table(report)]
    for name, rule in report["rules"].items():
        shown = ["- " + _example(example) for example in rule["examples"]]
        title = f"## Dropped by {name}: {rule['dropped_alone']:,}"
        parts.append("\n".join([title, "", *(shown or ["none"])]))
    write_whole(folder / "report.md", "\n\n".join(parts) + "\n", fix=_FIX)

    _draw(report, folder / "report.png")


def _example(row: Mapping[str, object]) -> str:
    cells: list[str] = []
    for name, value in row.items():
        shown = repr(value[:_LONGEST_EXAMPLE]) if isinstance(value, str) else str(value)
        cells.append(f"{name}: {shown}")
    return ", ".join(cells)


def _draw(report: Report, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no display
    from matplotlib import pyplot

    rules = report["rules"]
    alone = [100 * rule["dropped_alone_share"] for rule in rules.values()]
    sequence = [100 * rule["dropped_in_sequence_share"] for rule in rules.values()]

    figure, axis = pyplot.subplots(figsize=(8, 1.2 + 0.55 * len(rules)))
    for offset, shares, label, colour in (
        (-0.2, alone, "alone", "#9ecae1"),
        (0.2, sequence, "in sequence", "#08519c"),
    ):
        heights = [index + offset for index in range(len(rules))]
        bars = axis.barh(heights, shares, height=0.38, label=label, color=colour)
        axis.bar_label(bars, [f"{share:.2f}" for share in shares], fontsize=7, padding=2)

    axis.set_yticks(range(len(rules)), list(rules))
    axis.invert_yaxis()
    axis.set_xlabel("% of all rows that the rule drops")
    kept = f"{report['kept']:,} of {report['rows']:,} rows are kept ({report['kept_share']:.1%})"
    axis.set_title(kept, fontsize=10)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()

    # Without matplotlib's version in it, so that the same report gives the same bytes.
    figure.savefig(path, dpi=110, format="png", metadata={"Software": None})
    pyplot.close(figure)
