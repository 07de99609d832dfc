"""`eval=wds` against CLIP_benchmark's own command, on sets that its own writer wrote.

    python -m benchmarks.evaluation_sets [--model outputs/demo]

CLIP_benchmark writes sets of drawn images: ten classes, three classes, images of several classes,
and images with five captions. Both evaluate the model on all of them, the ten classes also by names
in German from a file. Then every cell of both tables is compared. CLIP_benchmark runs in the
environment of the peers of `benchmarks.loader` (made at the first run: 5 GB); the model is ours
there too, by `align_train.load`. Price: two minutes, beside that.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.evaluation_sets.drawn import CLASSES, GERMAN_PROMPTS, LANGUAGE, NAMED, SETS, german
from benchmarks.shared.children import LONGEST_ERROR, REPOSITORY, output_of
from benchmarks.shared.command_line import parser_of
from benchmarks.shared.peers import peers_python

# Of a mean of float32 numbers.
TOLERANCE = 1e-6

ABOUT = ("dataset", "task", "language")

Table = dict[tuple[str, str], Mapping[str, str]]


def table(path: Path) -> Table:
    """Reads a table of either: its rows by data set and language."""
    with path.open(newline="", encoding="utf-8") as file:
        return {(row["dataset"], row["language"]): row for row in csv.DictReader(file)}


def ask_peer(*arguments: str) -> None:
    """Runs `peer.py` in its environment.

    Raises:
        SystemExit: It failed.
    """
    command = [str(peers_python()), "-m", "benchmarks.evaluation_sets.peer", *arguments]
    child = subprocess.run(
        command,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    if child.returncode:
        raise SystemExit(child.stderr[-LONGEST_ERROR:])


def ours(model: str, folder: Path) -> Table:
    """Evaluates the model by our command, in both languages."""
    rows: Table = {}
    root = f"eval.wds.root={folder}"
    files = (
        f"eval.wds.sets=[{NAMED}]",
        f"eval.wds.language={LANGUAGE}",
        f"eval.wds.classnames={folder}/classnames.json",
        f"eval.wds.templates={folder}/templates.json",
    )
    plain = (f"eval.wds.sets=[{','.join(SETS)}]",)
    for name, options in (("plain", plain), ("language", files)):
        to = folder / name
        arguments = (f"model={model}", "eval=wds", root, *options, "workers=0", f"to={to}")
        output_of("align_train.evaluate", *arguments)
        rows |= table(to / "sets.csv")
    return rows


def compare(own: Table, other: Table) -> tuple[int, int]:
    """Prints both tables' numbers, and counts those that were compared, and the different ones."""
    compared = different = 0
    for key, row in other.items():
        print(f"{' '.join(key)}, {row['task']}; {own[key]['task']}")
        different += row["task"] != own[key]["task"]
        for column, value in row.items():
            # No number, such as the fifth of three classes: theirs is empty or nan.
            if column in (*ABOUT, "model", "pretrained", "model_fullname"):
                continue
            mine = own[key].get(column, "")
            if value in ("", "nan") and mine == "":
                continue
            compared += 1
            same = mine != "" and abs(float(mine) - float(value)) < TOLERANCE
            different += not same
            print(f"    {column:<28}{float(mine or 'nan'):>12.8f}{float(value):>12.8f}")
    return compared, different


def main() -> None:
    parser = parser_of("evaluation_sets", __doc__)
    parser.add_argument("--model", default="outputs/demo", help="a run's or exported folder")
    model = str(Path(parser.parse_args().model).absolute())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = [german(index) for index in range(CLASSES)]
        (folder / "classnames.json").write_text(json.dumps({NAMED: names}))
        (folder / "templates.json").write_text(json.dumps({NAMED: GERMAN_PROMPTS}))
        ask_peer("write", str(folder))
        own = ours(model, folder)
        ask_peer("evaluate", str(folder), model)
        other = table(folder / "benchmark.csv")

    print(f"{'':<32}{'this':>12}{'CLIP_benchmark':>16}")
    missing = set(own) ^ set(other)
    compared, different = compare(own, other)
    print(f"{compared} numbers compared, {different} different; rows of one table only: {missing}")


if __name__ == "__main__":
    main()
