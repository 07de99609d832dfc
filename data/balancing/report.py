"""The report of balancing: entries before and after, as JSON, Markdown and a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from align_train.errors import shown
from align_train.figures.plots import draw_cumulative
from align_train.files import write_whole

_HEAD = 20  # entries of the table, the most frequent ones
_TAIL = 10  # of the rarest
_LONGEST = 40  # characters of an entry in the table
_FIX = "free some space or choose another place with to=…"


class Figures(TypedDict):
    """The figures of `report.json` beside those of entries.

    `rate_1`: pairs with an entry and a rate of 1 or more. `given`: pairs that the selection keeps,
    or visits of an epoch. `largest_scale`: of a shard's rates, so that they sum up to a whole
    number, with its name; None: there are no rates.
    """

    pairs: int
    without_text: int
    unmatched: int
    rate_0: int
    rate_1: int
    threshold: int
    most: float
    unmatched_rate: float
    seed: int
    write: str
    expected: float
    given: int
    largest_scale: tuple[float, str] | None


class Counts(NamedTuple):
    """How many pairs hold each entry: before, after in expectation by the rates, and after.

    `after` counts the pairs that the selection keeps, or the visits of an epoch, on average over
    epochs.
    """

    entries: Sequence[str]
    before: NDArray[np.int64]
    expected: NDArray[np.float64]
    after: NDArray[np.float64]


def write(figures: Figures, counts: Counts, folder: Path) -> str:
    """Writes `report.json`, `report.md` and `report.png`.

    Args:
        figures: All figures but those of entries.
        counts: The entries'.
        folder: A folder that exists.

    Returns:
        The table of `report.md`.
    """
    # Stable: equal counts stay in the order of the entries, on any machine.
    ranked = np.argsort(-counts.before, kind="stable")
    held = ranked[counts.before[ranked] > 0]
    above = int((counts.before > figures["threshold"]).sum())
    head = held[:_HEAD]
    tail = held[_HEAD:][-_TAIL:]
    rows = {
        "top": [_row(index, counts, figures["threshold"]) for index in head.tolist()],
        "tail": [_row(index, counts, figures["threshold"]) for index in tail.tolist()],
    }

    content = {
        **figures,
        "entries": len(counts.entries),
        "entries_held": len(held),
        "entries_above_threshold": above,
        # By rank, those above the threshold are the first ones.
        **_share_of_head(counts, ranked[:above]),
        **rows,
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_whole(folder / "report.json", text.encode("utf-8", "replace"), fix=_FIX)

    table = _table(figures, content, [*rows["top"], *rows["tail"]])
    write_whole(folder / "report.md", f"# Balance\n\n{table}\n", fix=_FIX)
    _draw(counts, figures["threshold"], folder / "report.png")
    return table


class Row(TypedDict):
    """An entry in the report. `threshold`: the pairs that it draws itself, min(count, t)."""

    entry: str
    before: int
    threshold: int
    expected: float
    after: float


def _row(index: int, counts: Counts, threshold: int) -> Row:
    before = int(counts.before[index])
    return {
        "entry": counts.entries[index],
        "before": before,
        "threshold": min(before, threshold),
        "expected": round(float(counts.expected[index]), 2),
        "after": round(float(counts.after[index]), 2),
    }


def _share_of_head(counts: Counts, head: NDArray[np.int64]) -> dict[str, float]:
    """The share of all matches that belong to entries above the threshold, before and after."""
    shares: dict[str, float] = {}
    for name, values in (("before", counts.before), ("after", counts.after)):
        total = float(values.sum())
        shares[f"head_share_{name}"] = float(values[head].sum()) / total if total else 0.0
    return shares


def _table(figures: Figures, content: dict[str, object], rows: list[Row]) -> str:
    kept = "visits an epoch" if figures["write"] == "rates" else "kept"
    lines = [
        f"| entry | pairs | min(pairs, t) | expected | {kept} |",
        "|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        # In Markdown a bare bar would end the cell.
        name = shown(row["entry"], _LONGEST).replace("|", "\\|")
        lines.append(
            f"| {name} | {row['before']:,} | {row['threshold']:,} | {row['expected']:,.1f} | "
            f"{row['after']:,.1f} |"
        )

    lines += ["", *_sentences(figures, content)]
    return "\n".join(lines)


def _sentences(figures: Figures, content: dict[str, object]) -> list[str]:
    got = "visits an epoch" if figures["write"] == "rates" else "pairs kept"
    lines = [
        f"{figures['given']:,} {got} of {figures['pairs']:,} pairs; "
        f"{figures['expected']:,.1f} expected (threshold {figures['threshold']:,})",
        f"entries: {content['entries']:,}, of which {content['entries_held']:,} are held by pairs, "
        f"{content['entries_above_threshold']:,} by more than the threshold; these have "
        f"{content['head_share_before']:.1%} of all matches before, "
        f"{content['head_share_after']:.1%} after",
        f"pairs with rate 1 or more, for an entry that the threshold leaves whole: "
        f"{figures['rate_1']:,}",
        f"pairs with rate 0: {figures['rate_0']:,}; without an entry: {figures['unmatched']:,} "
        f"(rate {figures['unmatched_rate']:g}), without a text: {figures['without_text']:,}",
    ]
    if figures["largest_scale"] is not None:
        scale, shard = figures["largest_scale"]
        lines.append(
            f"rates are scaled in each shard to a whole number of visits: at most x {scale:.4g}, "
            f"in {shown(shard)}"
        )
    return lines


def _draw(counts: Counts, threshold: int, path: Path) -> None:
    """Cumulative counts of entries, the rarest first, as MetaCLIP draws them."""
    ranked = np.argsort(counts.before, kind="stable")
    before = counts.before[ranked].astype(np.float64)
    lines = {
        "before": np.cumsum(before),
        f"after, counted (t = {threshold:,})": np.cumsum(counts.after[ranked]),
        "min(count, t): what entries draw themselves": np.cumsum(np.minimum(before, threshold)),
    }
    draw_cumulative(
        lines,
        path,
        across="entries, the rarest first",
        up="pairs that hold them, cumulative",
        title="Pairs by the entries that they hold",
    )
