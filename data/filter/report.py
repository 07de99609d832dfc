"""What the filter dropped: rows and shares by each rule alone and in sequence, with examples; as JSON, table and picture."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.filter.rules import NAMES

Report = dict[str, Any]


def summarise(
    counts: Counter[int],
    rows: int,
    *,
    passes: Mapping[str, str],
    examples: Mapping[str, Sequence[Mapping[str, Any]]],
    not_applied: Mapping[str, str],
) -> Report:
    """counts: rows by the mask of the rules they fail; passes: what each rule that was applied asks for, in order."""
    rules: dict[str, Any] = {}
    left = rows
    before = 0  # the rules that came earlier
    for name, asks in passes.items():
        bit = 1 << NAMES.index(name)
        alone = sum(count for mask, count in counts.items() if mask & bit)
        here = sum(count for mask, count in counts.items() if mask & bit and not mask & before)
        before |= bit
        left -= here
        rules[name] = {
            "keeps": asks,
            "dropped_alone": alone,
            "dropped_alone_share": alone / rows,
            "dropped_in_sequence": here,
            "dropped_in_sequence_share": here / rows,
            "left": left,
            "examples": [dict(example) for example in examples[name]],
        }
    return {
        "rows": rows,
        "kept": left,
        "kept_share": left / rows,
        "rules": rules,
        "not_applied": dict(not_applied),
    }


def as_table(report: Report) -> str:
    """Markdown, also for the terminal."""
    lines = [
        "| rule | keeps | drops alone | | drops in sequence | | left |",
        "|---|---|--:|--:|--:|--:|--:|",
        *(
            f"| {name} | {rule['keeps']} | {rule['dropped_alone']:,} | {rule['dropped_alone_share']:.2%} "
            f"| {rule['dropped_in_sequence']:,} | {rule['dropped_in_sequence_share']:.2%} | {rule['left']:,} |"
            for name, rule in report["rules"].items()
        ),
        *(
            f"| {name} | not applied: {why} | | | | | |"
            for name, why in report["not_applied"].items()
        ),
        "",
        f"{report['kept']:,} of {report['rows']:,} rows are kept ({report['kept_share']:.2%})",
    ]
    return "\n".join(lines)


def write(report: Report, folder: Path) -> None:
    (folder / "report.json").write_text(
        json.dumps(report, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
    )
    parts = [as_table(report)]
    for name, rule in report["rules"].items():
        shown = ["- " + _example(example) for example in rule["examples"]]
        parts.append(
            "\n".join(
                [f"## Dropped by {name}: {rule['dropped_alone']:,}", "", *(shown or ["none"])]
            )
        )
    (folder / "report.md").write_text(
        "# What was dropped\n\n" + "\n\n".join(parts) + "\n", encoding="utf-8"
    )
    _draw(report, folder / "report.png")


def _example(row: Mapping[str, Any]) -> str:
    cells = (
        f"{name}: {str(value)[:120]!r}" if isinstance(value, str) else f"{name}: {value}"
        for name, value in row.items()
    )
    return ", ".join(cells)


def _draw(report: Report, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(report["rules"])
    figure, axis = pyplot.subplots(figsize=(8, 1.2 + 0.55 * len(names)))
    for offset, key, label, colour in (
        (-0.2, "dropped_alone_share", "alone", "#9ecae1"),
        (0.2, "dropped_in_sequence_share", "in sequence", "#08519c"),
    ):
        shares = [100 * report["rules"][name][key] for name in names]
        bars = axis.barh(
            [number + offset for number in range(len(names))],
            shares,
            height=0.38,
            label=label,
            color=colour,
        )
        axis.bar_label(bars, [f"{share:.2f}" for share in shares], fontsize=7, padding=2)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("% of all rows that the rule drops")
    axis.set_title(
        f"{report['kept']:,} of {report['rows']:,} rows are kept ({report['kept_share']:.1%})",
        fontsize=10,
    )
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110, format="png", metadata={"Software": None})
    pyplot.close(figure)
