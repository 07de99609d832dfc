"""More noisy data against less clean data: the table and the plot of `experiment=noise_scaling`.

    python -m align_train experiment=noise_scaling      # trains twelve runs, an hour or more
    python -m benchmarks.noise_scaling [--runs outputs] [--to outputs/noise_scaling]

It reads every finished run `noise_scaling-…` of the folder, prints zero-shot top 1 by the number of
training pairs and the share of noisy texts, and writes the same as TO.csv and TO.png.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import yaml

from align_train.figures.plots import draw_lines
from align_train.files import write_whole
from align_train.run.folder import RunFolder
from benchmarks.shared.command_line import parser_of

VALUE = "zero_shot/top1"

# (pairs, share of noise) -> top 1
Table = dict[tuple[int, float], float]


def read(folder: Path) -> Table:
    """Reads the values of all runs that have been evaluated."""
    table: Table = {}
    for path in sorted(folder.glob("noise_scaling-*")):
        run = RunFolder(path)
        results = run.read_results()
        if results is None or VALUE not in results:
            continue

        made = yaml.safe_load(run.config.read_text(encoding="utf-8"))["data"]["make"]
        table[int(made["pairs"]), float(made["noise"])] = float(results[VALUE])
    return table


def rows_of(table: Table) -> list[list[str]]:
    """Returns the table with its heading, a row for each number of pairs."""
    noises = sorted({noise for _, noise in table})
    rows = [["training pairs", *(f"{noise:.0%} noise" for noise in noises)]]
    for pairs in sorted({pairs for pairs, _ in table}):
        values = [table.get((pairs, noise)) for noise in noises]
        # A run that is missing leaves its cell empty.
        cells = ["" if value is None else f"{value:.4f}" for value in values]
        rows.append([f"{pairs}", *cells])
    return rows


def draw(table: Table, path: Path) -> None:
    """Draws a line for each share of noise."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for (pairs, noise), value in sorted(table.items()):
        lines.setdefault(f"{noise:.0%} noise", []).append((pairs, value))
    draw_lines(lines, path, across="training pairs", up=VALUE, title=f"{VALUE} by data")


def main() -> None:
    parser = parser_of("noise_scaling", __doc__)
    parser.add_argument("--runs", type=Path, default=Path("outputs"))
    parser.add_argument("--to", type=Path, default=Path("outputs/noise_scaling"))
    options = parser.parse_args()

    table = read(options.runs)
    if not table:
        raise SystemExit(
            f"{options.runs}: no finished run noise_scaling-… there; "
            f"train them with `python -m align_train experiment=noise_scaling`"
        )

    rows = rows_of(table)
    for row in rows:
        print("".join(f"{cell:>16}" for cell in row))

    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    table_path = options.to.with_suffix(".csv")
    plot_path = options.to.with_suffix(".png")
    write_whole(table_path, text.getvalue())
    draw(table, plot_path)
    print(f"{table_path}, {plot_path}: {VALUE} of {len(table)} runs")


if __name__ == "__main__":
    main()
