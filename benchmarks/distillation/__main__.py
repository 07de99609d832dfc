"""The demo's model distilled into one of a quarter of its parameters, beside training that alone.

    python -m benchmarks.distillation [--teacher outputs/demo] [--runs outputs] [--seeds 0 1 2]
                                      [--weight 0.8] [--to outputs/distillation]

Both kinds of runs have the demo's settings and steps, and the same seeds. The benchmark trains
those that are missing (two runs a seed, each about as long as the demo), prints zero-shot top 1 and
recall of each, and writes the table as TO.csv and zero-shot top 1 as TO.png.

Target: with a teacher, zero-shot top 1 is higher for every seed.
"""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import torch

from align_train.figures.plots import draw_means
from align_train.files import write_whole
from align_train.run.folder import RunFolder
from benchmarks.shared.command_line import parser_of

KINDS = ("alone", "distilled")

# Both towers of conf/model/tiny.yaml, narrower.
STUDENT = [
    "model.image_tower.width=0.375",
    "model.text_tower.hidden=48",
    "model.text_tower.intermediate=192",
    "model.text_tower.initializer_range=0.144",  # 1 / sqrt(48), as the demo's 0.09
]

# Only the evaluations that the table needs.
EVALUATIONS = ["eval.composed_colour=null", "eval.composed_shape=null"]

COLUMNS = {
    "zero_shot/top1": "zero-shot top 1",
    "retrieval/image_to_text/recall@1": "image -> text R@1",
    "retrieval/text_to_image/recall@1": "text -> image R@1",
    "held_out/loss": "held-out loss",
}


def train(name: str, folder: Path, overrides: list[str]) -> None:
    """Trains one run by the command; a finished one is left as it is."""
    command = [sys.executable, "-m", "align_train", f"name={name}", f"output_dir={folder}"]
    command += [*STUDENT, *EVALUATIONS, *overrides]
    print(" ".join(command[1:]), flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def parameters_of(folder: Path) -> int:
    """Counts the weights in a run's last checkpoint, BatchNorm's statistics left out."""
    path = RunFolder(folder).last_checkpoint()
    assert path is not None, folder
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    statistics = ("running_mean", "running_var", "num_batches_tracked", "position_ids")
    return sum(value.numel() for name, value in state.items() if not name.endswith(statistics))


def rows_of(folder: Path, seeds: list[int]) -> list[list[str]]:
    """Returns the table with its heading: a row for each run, then the means of each kind."""
    rows = [["run", "seed", *COLUMNS.values()]]
    for kind in KINDS:
        found: list[list[float]] = []
        for seed in seeds:
            results = RunFolder(folder / f"{kind}-{seed}").read_results()
            assert results is not None, f"{kind}-{seed} has no results"
            found.append([float(results[column]) for column in COLUMNS])
            rows.append([kind, f"{seed}", *(f"{value:.4f}" for value in found[-1])])
        means = [sum(values) / len(values) for values in zip(*found, strict=True)]
        rows.append([kind, "mean", *(f"{value:.4f}" for value in means)])
    return rows


def main() -> None:
    parser = parser_of("distillation", __doc__)
    parser.add_argument("--teacher", type=Path, default=Path("outputs/demo"))
    parser.add_argument("--runs", type=Path, default=Path("outputs"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weight", type=float, default=0.8)
    parser.add_argument("--to", type=Path, default=Path("outputs/distillation"))
    options = parser.parse_args()

    teacher = [f"distillation.model={options.teacher}", f"distillation.weight={options.weight}"]
    for seed in options.seeds:
        for kind, overrides in zip(KINDS, ([], teacher), strict=True):
            train(f"{kind}-{seed}", options.runs, [f"seed={seed}", *overrides])

    students = parameters_of(options.runs / f"alone-{options.seeds[0]}")
    teachers = parameters_of(options.teacher)
    print(f"parameters: {students:,} of the teacher's {teachers:,} ({students / teachers:.0%})")
    rows = rows_of(options.runs, options.seeds)
    for row in rows:
        print("".join(f"{cell:>20}" for cell in row))

    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_whole(options.to.with_suffix(".csv"), text.getvalue())
    values = {
        kind: [float(row[2]) for row in rows if row[0] == kind and row[1] != "mean"]
        for kind in KINDS
    }
    draw_means(values, options.to.with_suffix(".png"), up="zero-shot top 1")


if __name__ == "__main__":
    main()
