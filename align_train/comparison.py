"""Runs that differ in two settings, laid side by side: a table, a .csv and a plot of what they were evaluated with.

Made anew at the end of each run from all that have results by then, whoever started them, in whatever order.
"""

from __future__ import annotations

import csv
import glob
import io
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from align_train.config.compose import read_settings
from align_train.errors import UserError
from align_train.figures.plots import draw_lines
from align_train.files import write_whole
from align_train.run.folder import RunFolder


class Comparison:
    """runs: a glob of their folders. rows, columns: settings, e.g. `make.pairs`. value: of results.json, e.g. `zero_shot/top1`.
    to: where `.csv` and `.png` go, without that ending."""

    def __init__(self, *, runs: str, rows: str, columns: str, value: str, to: str) -> None:
        self.runs, self.rows, self.columns, self.value, self.to = (
            runs,
            rows,
            columns,
            value,
            Path(to).expanduser(),
        )

    def __call__(self) -> None:
        """Writes and prints; one line where no run has such a result yet."""
        found = self._found()
        if not found:
            print(f"{self.runs}: no run has {self.value} yet", flush=True)
            return
        rows, columns = sorted({row for row, _ in found}), sorted({column for _, column in found})
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([f"{self.value}: {self.rows} by {self.columns}", *columns])
        print(f"{self.value} of {len(found)} runs, {self.rows} (rows) by {self.columns}:")
        print("".join(f"{head:>12}" for head in ("", *(f"{column:g}" for column in columns))))
        for row in rows:
            values = [found.get((row, column)) for column in columns]
            writer.writerow([row, *("" if value is None else f"{value:.4f}" for value in values)])
            print(
                "".join(
                    f"{cell:>12}"
                    for cell in (f"{row:,g}", *("" if v is None else f"{v:.4f}" for v in values))
                )
            )
        table, plot = Path(f"{self.to}.csv"), Path(f"{self.to}.png")
        write_whole(table, text.getvalue())
        lines = {
            f"{self.columns}={column:g}": [
                (row, found[row, column]) for row in rows if (row, column) in found
            ]
            for column in columns
        }
        draw_lines(lines, plot, across=self.rows, up=self.value)
        print(f"{table}, {plot}", flush=True)

    def _found(self) -> dict[tuple[float, float], float]:
        found: dict[tuple[float, float], float] = {}
        places: dict[tuple[float, float], Path] = {}
        for folder in sorted(map(Path, glob.glob(str(Path(self.runs).expanduser())))):
            results = RunFolder(folder).read_results()
            if results is not None and self.value in results:
                settings = read_settings(RunFolder(folder).config)
                key = (
                    _number(settings, self.rows, folder),
                    _number(settings, self.columns, folder),
                )
                if key in places:
                    raise UserError(
                        f"compare: {places[key].name} and {folder.name} have the same {self.rows} and {self.columns}; narrow "
                        f"compare.runs={self.runs}"
                    )
                places[key] = folder
                found[key] = float(results[self.value])
        return found


def _number(settings: Any, key: str, folder: Path) -> float:
    value = OmegaConf.select(settings, key) if OmegaConf.is_dict(settings) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"compare: {folder} has {key}={value}; expected a setting that is a number")
    return value
