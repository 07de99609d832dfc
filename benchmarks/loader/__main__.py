"""Three loaders on the same shards, alternating in one run: ours, open_clip's, and a plain one.

    python -m benchmarks.loader [--rounds 3] [--seconds 2] [--workers 1 2]
        [--cases long-500 short-384] [--photos FOLDER]

The plain loader is one of webdataset and Pillow. All give batches of 64 pairs at 289 x 289 from
random crops. Each measurement is a fresh process. A round measures every loader once, one after
another, and each round begins with another one. Two loaders are compared by the median over the
rounds of the ratio within a round, so that a machine that is slow for a while slows both.

open_clip gets an environment of its own, `.venv-peers`, made at the first run: 5 GB, its own pins
(webdataset 0.2.86 or older). The benchmark sets no variable of the environment: threads are as the
users of each loader have them. Cases:

- long-500: the longer side is 500, 500 x 375 mostly: the median of the photos in the web's data
  sets.
- short-384: img2dataset's `keep_ratio` at `image_size=384`, which makes the *shorter* side 384:
  512 x 384 mostly.
- long-384 (on request): its `keep_ratio_largest`, 384 x 288 mostly.

Columns:

- *pairs/s* by the wall clock, after every worker's first batch; *per CPU s* the same per second of
  CPU time of all processes, which a busy neighbour disturbs less.
- *first batch*: from building the loader (imports done) to its first batch.
- *KiB/pair*: images and tokens as a batch holds them, which is what crosses from the worker to the
  trainer.
- *peak MiB*: the processes' memory together (PSS without the libraries' code).
- *ours/it*: the ratio of pairs/s, and of those per CPU second.
- *of ceiling*: ours / (ceiling x workers), and the same of those per CPU second, the trainer's
  process included. The ceiling is the row *decode alone*: our decode() of the same bytes in one
  thread and nothing else.

Price: 42 processes by default, six to seven minutes on two cores, of which four go to the
processes' imports; `--rounds 1` gives a first look. Every measurement is kept in
`outputs/benchmarks/loader/measurements.jsonl`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from benchmarks.loader.table import LOADERS, Results, Task, table
from benchmarks.shared.children import LONGEST_ERROR, REPOSITORY
from benchmarks.shared.command_line import parser_of
from benchmarks.shared.peers import peers_python, versions
from benchmarks.shared.photos import CASES, PHOTOS, make_shards, make_vocabulary, photos
from benchmarks.shared.sizes import BATCH, IMAGE_SIZE

FOLDER = REPOSITORY / "outputs" / "benchmarks" / "loader"
VOCABULARY = FOLDER / "vocabulary"

LIMIT = 300  # seconds that one measurement may take

OUR_PACKAGES = ("torch", "torchvision", "pillow", "webdataset", "transformers")
PEERS_PACKAGES = ("open_clip_torch", "torch", "torchvision", "pillow", "webdataset")


def tasks(cases: list[str], workers: list[int], turn: int) -> Iterator[Task]:
    """Yields the measurements of one round; each round begins with another loader."""
    first = turn % len(LOADERS)
    order = LOADERS[first:] + LOADERS[:first]
    for case in cases:
        yield Task(case, "decode", 0)
        for count in workers:
            for loader in order:
                yield Task(case, loader, count)


def measured(task: Task, peers: Path, seconds: float) -> dict[str, float]:
    """Runs one measurement in a process of its own.

    Args:
        task: The measurement.
        peers: The interpreter for open_clip.
        seconds: The time of steady state that is measured.

    Raises:
        SystemExit: The process failed, or took too long; its last words are in the message.
    """
    ours = task.loader in ("ours", "decode")
    command = [
        str(peers) if task.loader == "open_clip" else sys.executable,
        "-m",
        "benchmarks.loader.ours" if ours else "benchmarks.loader.peers",
        task.loader,
        str(FOLDER / task.case),
        str(VOCABULARY),
        str(task.workers),
        str(seconds),
    ]
    try:
        child = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        raise SystemExit(
            f"{task}: no result within {LIMIT} s; give it less to do with --seconds"
        ) from None

    if child.returncode != 0 or not child.stdout.strip():
        raise SystemExit(f"{task} failed:\n{child.stderr[-LONGEST_ERROR:]}")
    result: dict[str, float] = json.loads(child.stdout.splitlines()[-1])
    return result


def run(cases: list[str], workers: list[int], rounds: int, seconds: float) -> Results:
    """Runs all measurements, and keeps each as a line of `measurements.jsonl`.

    Args:
        cases: The cases, of `CASES`.
        workers: The numbers of workers.
        rounds: The number of rounds.
        seconds: The time of steady state of each measurement.
    """
    # Made first: a failure should come before any measurement.
    peers = peers_python()
    print(f"ours, plain: {versions(sys.executable, *OUR_PACKAGES)}")
    print(f"open_clip:   {versions(peers, *PEERS_PACKAGES)}", flush=True)

    plan = []
    for turn in range(rounds):
        for task in tasks(cases, workers, turn):
            plan.append((turn, task))

    results: Results = {}
    with (
        (FOLDER / "measurements.jsonl").open("w", encoding="utf-8") as file,
        tqdm(plan, unit="measurement") as bar,
    ):
        for turn, task in bar:
            bar.set_postfix_str(f"{task.loader}, {task.workers} workers, {task.case}")
            result = measured(task, peers, seconds)
            results.setdefault(task, []).append(result)
            file.write(json.dumps({"round": turn, **vars(task), **result}) + "\n")
            file.flush()
    return results


def read_options() -> Namespace:
    parser = parser_of("loader", __doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds",
        type=float,
        default=2.0,
        help="of steady state per measurement (default 2)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=[1, 2],
        choices=range(1, 9),
        metavar="1..8",
    )
    parser.add_argument("--cases", nargs="+", default=["long-500", "short-384"], choices=CASES)
    parser.add_argument(
        "--photos",
        type=Path,
        default=PHOTOS,
        help="a folder of *.jpg with captions.tsv",
    )

    options = parser.parse_args()
    if options.rounds < 1 or options.seconds <= 0:
        raise SystemExit(
            f"--rounds {options.rounds} --seconds {options.seconds}: expected at least 1, and "
            f"more than 0"
        )
    return options


def main() -> None:
    options = read_options()
    photos(options.photos)  # ends at once without any
    make_vocabulary(options.photos, VOCABULARY)
    for case in options.cases:
        make_shards(options.photos, FOLDER / case, case)

    results = run(options.cases, options.workers, options.rounds, options.seconds)

    print(
        f"\nmedians of {options.rounds} rounds; {BATCH} pairs a batch, {IMAGE_SIZE} x {IMAGE_SIZE}"
    )
    print(table(results))


if __name__ == "__main__":
    main()
