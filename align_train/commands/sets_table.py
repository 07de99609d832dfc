"""The table of evaluation sets by name: `sets.csv` in CLIP_benchmark's columns, and `sets.md`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import chain

from align_train.evals import Evaluator, WdsEvaluator
from align_train.files import write_whole
from align_train.run.folder import RunFolder

Row = dict[str, str | float]

# As in CLIP_benchmark's benchmark.csv; recall at other numbers than 5 follows.
_METRICS = (
    "acc1",
    "acc5",
    "mean_per_class_recall",
    "mean_average_precision",
    "image_retrieval_recall@5",
    "text_retrieval_recall@5",
)
_ABOUT = ("dataset", "model", "pretrained", "task", "language", "model_fullname")


def write_sets(
    evaluators: Mapping[str, Evaluator],
    results: Mapping[str, float],
    folder: RunFolder,
    *,
    model: str,
    fix: str,
) -> None:
    """Writes and prints the table of the sets that have results; without such sets nothing.

    Args:
        evaluators: By name, those of sets and others.
        results: By name, `NAME/METRIC`.
        folder: For the files.
        model: The model's name.
        fix: What to do if the files cannot be written.
    """
    rows: list[Row] = []
    for name, evaluator in evaluators.items():
        own = {
            key.removeprefix(f"{name}/"): value
            for key, value in results.items()
            if key.startswith(f"{name}/")
        }
        # A set that failed has no results, and so no row.
        if isinstance(evaluator, WdsEvaluator) and own:
            rows.append(evaluator.columns(own))
    if not rows:
        return

    # CLIP_benchmark tells models apart by two names.
    pretrained = f"step-{results['step']}" if "step" in results else ""
    for row in rows:
        fullname = f"{model} {pretrained}".strip()
        row |= {"model": model, "pretrained": pretrained, "model_fullname": fullname}

    write_whole(folder.sets_csv, _csv(rows), fix=fix)
    table = markdown(rows)
    write_whole(folder.sets_md, table, fix=fix)
    print(f"\n{table}\n{folder.sets_csv}, {folder.sets_md.name}", flush=True)


def _csv(rows: Sequence[Row]) -> str:
    # Metrics of the evaluators' own come last, in the order in which they are first met.
    columns = dict.fromkeys([*_METRICS, *_ABOUT, *chain.from_iterable(rows)])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown(rows: Sequence[Row]) -> str:
    """Spells the table in Markdown: a row a set, then the mean of each column over its sets.

    Args:
        rows: As of `sets.csv`.

    Returns:
        The table, without columns that no set has.
    """
    there = [metric for metric in _METRICS if any(metric in row for row in rows)]
    several = len({row["language"] for row in rows}) > 1
    lines = [_line(["dataset", *(["language"] if several else []), *there])]
    lines.append(_line(["---"] * (1 + several) + ["---:"] * len(there)))
    for row in rows:
        about = [str(row["dataset"]), *([str(row["language"])] if several else [])]
        lines.append(_line([*about, *(_number(row.get(metric)) for metric in there)]))

    if len(rows) > 1:
        means = []
        for metric in there:
            values = [float(row[metric]) for row in rows if metric in row]
            means.append(f"{_number(sum(values) / len(values))} ({len(values)})")
        lines.append(_line(["mean (of so many)", *([""] if several else []), *means]))
    return "".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else ""
