"""Does it pay to let the model choose its data? `experiment=curation` with its comparisons.

    python -m benchmarks.curation [--seeds 0 1 2] [--steps 600] [--to outputs/curation]

For each seed four runs of as many steps: on all pairs; on a random half; on the half with the best
scores of the run on all pairs; and on the pairs whose text is clean, which only the demo knows. It
prints zero-shot top 1 of each, and writes the same as TO.csv and TO.png: a bar for the mean of an
arm, a dot for each seed. Finished parts are kept, so the same command goes on. A seed takes about a
quarter of an hour on two cores.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import numpy as np

from align_train.demo.make import sample_text
from align_train.figures.plots import draw_means
from align_train.files import write_whole
from align_train.run.folder import RunFolder
from benchmarks.shared.children import REPOSITORY, output_of
from benchmarks.shared.command_line import parser_of

VALUE = "zero_shot/top1"
ARMS = ("all pairs", "random half", "best half", "clean pairs")

_DATA = REPOSITORY / "demo_data" / "curation"
_TRAIN = _DATA / "train"
_SHARE = 0.5

Table = dict[tuple[str, int], float]
"""(arm, seed) -> top 1."""


class Loop:
    """The runs of one seed, in one folder."""

    def __init__(self, folder: Path, seed: int, steps: int) -> None:
        """Trains nothing yet.

        Args:
            folder: Where runs, scores and selections go.
            seed: Of the runs, and of the random half.
            steps: Of each run.
        """
        self.folder = folder
        self.seed = seed
        self.steps = steps

    def values(self) -> dict[str, float]:
        """Trains what is not trained yet, and returns zero-shot top 1 of each arm."""
        values = {"all pairs": self._trained("all", _TRAIN)}

        # The demo is drawn by now.
        made = json.loads((_DATA / "demo.json").read_text())
        chosen = {
            "random half": ("random", self._listed("random", _random(made, self.seed))),
            "best half": ("best", self._best()),
            "clean pairs": ("clean", self._listed("clean", _clean(made))),
        }
        for arm, (name, shards) in chosen.items():
            values[arm] = self._trained(name, shards)
        return values

    def _trained(self, name: str, shards: Path) -> float:
        run = RunFolder(self.folder / f"{name}-{self.seed}")
        output_of(
            "align_train",
            "experiment=curation",
            f"output_dir={self.folder}",
            f"name={run.path.name}",
            f"seed={self.seed}",
            f"max_steps={self.steps}",
            f"data.make.folder={_DATA}",
            f"data.shards={shards}",
        )
        results = run.read_results()
        if results is None:
            raise SystemExit(f"{run.path}: has no results")
        return float(results[VALUE])

    def _best(self) -> Path:
        """The half with the best scores of the run on all pairs."""
        scores = self.folder / f"scores-{self.seed}"
        model = self.folder / f"all-{self.seed}"
        output_of("align_train.score", f"model={model}", f"shards={_TRAIN}", f"to={scores}")
        rule = f"rules.columns.similarity.top={_SHARE}"
        return self._selected("best", f"scores={scores}", rule)

    def _listed(self, name: str, keys: list[str]) -> Path:
        """The pairs of these keys."""
        listed = self.folder / f"{name}-{self.seed}.txt"
        write_whole(listed, "".join(f"{key}\n" for key in keys))
        return self._selected(name, f"rules.uids.of={listed}", "columns.uid=key")

    def _selected(self, name: str, *rules: str) -> Path:
        to = self.folder / f"{name}-{self.seed}-pairs"
        output_of("data.filter", f"source={_TRAIN}", f"to={to}", "paper=false", *rules)
        return to / "manifest.jsonl"


def _random(made: Mapping[str, int], seed: int) -> list[str]:
    chosen = np.random.default_rng(seed).permutation(made["pairs"])
    return sorted(f"{index:08d}" for index in chosen[: round(_SHARE * made["pairs"])])


def _clean(made: Mapping[str, int]) -> list[str]:
    """The pairs whose text is what it would be without noise."""
    keys = []
    for index in range(made["pairs"]):
        text = sample_text(made["seed"], index, made["noise"])
        if text == sample_text(made["seed"], index, 0):
            keys.append(f"{index:08d}")
    return keys


def rows_of(table: Table) -> list[list[str]]:
    """The table with its heading: a row for each arm, a column for each seed, and the mean."""
    seeds = sorted({seed for _, seed in table})
    rows = [["trained on", *(f"seed {seed}" for seed in seeds), "mean"]]
    for arm in ARMS:
        values = [table[arm, seed] for seed in seeds]
        rows.append([arm, *(f"{value:.4f}" for value in values), f"{fmean(values):.4f}"])
    return rows


def main() -> None:
    """Runs the loop for each seed; prints and writes the table and the plot."""
    parser = parser_of("curation", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600, help="of each run")
    parser.add_argument("--to", type=Path, default=REPOSITORY / "outputs" / "curation")
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)

    table: Table = {}
    for seed in options.seeds:
        for arm, value in Loop(options.to.absolute(), seed, options.steps).values().items():
            table[arm, seed] = value
            print(f"seed {seed}, {arm}: {VALUE} {value:.4f}", flush=True)

    rows = rows_of(table)
    for row in rows:
        print("".join(f"{cell:>14}" for cell in row))

    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_whole(options.to.with_suffix(".csv"), text.getvalue())
    values = {arm: [table[arm, seed] for seed in options.seeds] for arm in ARMS}
    draw_means(values, options.to.with_suffix(".png"), up=VALUE)


if __name__ == "__main__":
    main()
