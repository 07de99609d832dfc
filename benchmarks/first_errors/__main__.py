"""The time from a mistake of somebody's first day to the line that mends it.

    python -m benchmarks.first_errors [--rounds 3] [--only WORD]

Each mistake is a command in a process of its own, in a folder with small shards, a table, an image
and a finished run. The table has the median of the seconds until the process has ended, its exit
status, and the lines that it wrote on stderr.

Target: 3 s on an idle machine, status 2, one to three lines, no bytes of a file. Price: a minute to
make the folder, and three for the rounds.
"""

from __future__ import annotations

import gzip
import os
import shlex
import subprocess
import sys
import time
from statistics import median
from typing import NamedTuple

from PIL import Image

from benchmarks.first_errors.mistakes import MISTAKES, Mistake
from benchmarks.shared.children import LONGEST_ERROR, REPOSITORY
from benchmarks.shared.command_line import parser_of, refuse_no_rounds

FOLDER = REPOSITORY / "outputs" / "benchmarks" / "first_errors"

LONGEST = 3.0  # seconds
MOST_LINES = 3
STATUS = 2

_DEMO = "data.demo folder=pairs pairs=256 held_out=64 pairs_per_shard=128 vocabulary=300"
_RUN = (
    "align_train data=webdataset data.shards=pairs/train data.tokenizer=pairs/tokenizer name=done "
    "max_steps=1"
)


class Outcome(NamedTuple):
    """How a command ended."""

    seconds: float
    status: int
    stderr: str


def run(command: str) -> Outcome:
    """Runs a command in the folder, offline."""
    environment = {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)],
        cwd=FOLDER,
        env=os.environ | environment,
        capture_output=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    return Outcome(seconds, done.returncode, done.stderr.decode("utf-8", "backslashreplace"))


def make() -> None:
    """Makes what the commands need, once."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "empty").mkdir(exist_ok=True)
    (FOLDER / "table.csv").write_text("path,text\npicture.jpg,a blue square\n")
    (FOLDER / "shards.tar.gz").write_bytes(gzip.compress(bytes(10_240)))
    (FOLDER / "images").mkdir(exist_ok=True)
    for path in (FOLDER / "picture.jpg", FOLDER / "images" / "picture.jpg"):
        Image.new("RGB", (64, 64), "blue").save(path)

    for path, command in ((FOLDER / "pairs", _DEMO), (FOLDER / "outputs" / "done", _RUN)):
        if not path.exists() and (outcome := run(command)).status:
            raise SystemExit(f"{command}: {outcome.stderr}")


def row_of(mistake: Mistake, outcomes: list[Outcome]) -> str:
    """Returns a mistake's row, with what is amiss."""
    last = outcomes[-1]
    seconds = median(outcome.seconds for outcome in outcomes)
    lines = last.stderr.count("\n")

    faults = {
        "SLOW": seconds > LONGEST,
        "STATUS": last.status != STATUS,
        "LINES": not 1 <= lines <= MOST_LINES,
        "WORD": mistake.word not in last.stderr,
        "BINARY": not last.stderr.replace("\n", "").isprintable(),
    }
    amiss = " ".join(name for name, found in faults.items() if found)
    return f"{mistake.what:<34}{seconds:>8.2f}{last.status:>8}{lines:>7}   {amiss}"


def main() -> None:
    parser = parser_of("first_errors", __doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="mistakes whose name has this word")
    parser.add_argument("--words", action="store_true", help="print the errors, too")
    given = parser.parse_args()
    refuse_no_rounds(given.rounds)

    make()
    print(f"{'mistake':<34}{'seconds':>8}{'status':>8}{'lines':>7}", flush=True)
    for mistake in MISTAKES:
        if given.only not in mistake.what:
            continue
        outcomes = [run(mistake.command) for _ in range(given.rounds)]
        print(row_of(mistake, outcomes), flush=True)
        if given.words:
            print(f"    {outcomes[-1].stderr.strip()[:LONGEST_ERROR]}", flush=True)


if __name__ == "__main__":
    main()
