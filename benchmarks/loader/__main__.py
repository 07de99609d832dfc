"""Three loaders on the same shards, alternating in one run: ours, open_clip's, and a plain one of webdataset and Pillow.

    python -m benchmarks.loader [--rounds 3] [--seconds 2] [--workers 1 2] [--cases long-500 short-384] [--photos FOLDER]

All give batches of 64 pairs at 289 x 289 from random crops. Each measurement is a fresh process; a round measures every
loader once, one after another, and each round begins with another one. What is said of two loaders is the median over the
rounds of the ratio within a round, so that a machine that is slow for a while slows both. open_clip gets an environment of
its own, `.venv-peers`, made at the first run: 5 GB, its own pins (webdataset 0.2.86 or older). No variable of the
environment is set: threads are as the users of each have them. Cases:

- long-500: the longer side is 500, 500 x 375 mostly: what photos of the web's data sets have in the median.
- short-384: img2dataset's `keep_ratio` at `image_size=384`, which makes the *shorter* side 384: 512 x 384 mostly.
- long-384 (on request): its `keep_ratio_largest`, 384 x 288 mostly.

Columns: *pairs/s* by the wall clock, after every worker's first batch; *per CPU s* the same per second of CPU time of all
processes, which a busy neighbour disturbs less; *first batch* from building the loader (imports done) to its first batch;
*KiB/pair* pictures and tokens as a batch holds them, which is what crosses from the worker to the trainer; *peak MiB* the
processes' memory together (PSS without the libraries' code); *ours/it* the ratio of pairs/s, and of those per CPU second.
The row *decode alone* is the ceiling: our decode() of the same bytes in one thread and nothing else; *of ceiling* is
ours / (ceiling x workers), and the same of those per CPU second, the trainer's process included.

Price: 42 processes by default, six to seven minutes on two cores, of which four go to the processes' imports; `--rounds 1`
gives a first look. Every measurement is kept in `outputs/benchmarks/loader/measurements.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from benchmarks.shared.children import TOP
from benchmarks.shared.peers import peers_python, versions
from benchmarks.shared.photos import CASES, PHOTOS, make_shards, make_vocabulary, photos

FOLDER = TOP / "outputs" / "benchmarks" / "loader"


LOADERS = ("ours", "open_clip", "plain")


PER_SECOND, PER_CPU_SECOND = "pairs_per_second", "pairs_per_cpu_second"


HEADS = (
    *("case", "loader", "workers", "pairs/s", "per CPU s", "first batch", "KiB/pair", "peak MiB"),
    *("ours/it", "by CPU", "of ceiling", "by CPU"),
)


LIMIT = 300  # seconds that one measurement may take


@dataclass(frozen=True)
class Task:
    """One measurement. workers is 0 for decoding alone."""

    case: str
    loader: str
    workers: int


Results = dict[Task, list[dict[str, float]]]  # one dict per round


def tasks(cases: list[str], workers: list[int], turn: int) -> Iterator[Task]:
    """The measurements of one round; the loader that begins changes from round to round."""
    order = LOADERS[turn % len(LOADERS) :] + LOADERS[: turn % len(LOADERS)]
    for case in cases:
        yield Task(case, "decode", 0)
        for count in workers:
            yield from (Task(case, loader, count) for loader in order)


def measured(task: Task, peers: Path, seconds: float) -> dict[str, float]:
    """Runs one measurement in a process of its own; SystemExit with its last words where it fails."""
    script = (
        "benchmarks.loader.ours" if task.loader in ("ours", "decode") else "benchmarks.loader.peers"
    )
    python = str(peers) if task.loader == "open_clip" else sys.executable
    where = [str(FOLDER / task.case), str(FOLDER / "vocabulary")]
    command = [python, "-m", script, task.loader, *where, str(task.workers), str(seconds)]
    try:
        child = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        raise SystemExit(
            f"{task}: no result within {LIMIT} s; give it less to do with --seconds"
        ) from None
    if child.returncode != 0 or not child.stdout.strip():
        raise SystemExit(f"{task} failed:\n{child.stderr[-3000:]}")
    result: dict[str, float] = json.loads(child.stdout.splitlines()[-1])
    return result


def run(cases: list[str], workers: list[int], rounds: int, seconds: float) -> Results:
    peers = peers_python()
    print(
        f"ours, plain: {versions(sys.executable, 'torch', 'torchvision', 'pillow', 'webdataset', 'transformers')}"
    )
    print(
        f"open_clip:   {versions(peers, 'open_clip_torch', 'torch', 'torchvision', 'pillow', 'webdataset')}",
        flush=True,
    )
    results: Results = {}
    plan = [(turn, task) for turn in range(rounds) for task in tasks(cases, workers, turn)]
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


def middle(rows: list[dict[str, float]], key: str) -> float:
    return median(row[key] for row in rows)


def ratio(above: list[dict[str, float]], below: list[dict[str, float]], key: str) -> float:
    """The median over the rounds of above / below."""
    return median(a[key] / b[key] for a, b in zip(above, below, strict=True))


def table(results: Results) -> str:
    """One row per loader, workers and case."""
    shown = sorted(
        results,
        key=lambda task: (
            list(CASES).index(task.case),
            task.workers,
            ("decode", *LOADERS).index(task.loader),
        ),
    )
    rows = [HEADS, *(row_of(task, results) for task in shown)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    return "\n".join(line(row, widths) for row in rows)


def row_of(task: Task, results: Results) -> tuple[str, ...]:
    rows = results[task]
    speeds = (f"{middle(rows, PER_SECOND):.0f}", f"{middle(rows, PER_CPU_SECOND):.0f}")
    if task.loader == "decode":
        return (task.case, "decode alone", "-", *speeds, *["-"] * (len(HEADS) - 5))
    memory = (
        f"{middle(rows, 'bytes_per_pair') / 1024:.0f}",
        f"{middle(rows, 'peak_bytes') / 2**20:.0f}",
    )
    columns = (
        task.case,
        task.loader,
        str(task.workers),
        *speeds,
        f"{middle(rows, 'first_batch_seconds'):.2f} s",
        *memory,
    )
    if task.loader == "ours":
        ceiling = results[Task(task.case, "decode", 0)]
        share, of_cpu = (
            ratio(rows, ceiling, PER_SECOND) / task.workers,
            ratio(rows, ceiling, PER_CPU_SECOND),
        )
        return (*columns, "-", "-", f"{share:.0%}", f"{of_cpu:.0%}")
    ours = results[Task(task.case, "ours", task.workers)]
    return (
        *columns,
        f"{ratio(ours, rows, PER_SECOND):.2f}",
        f"{ratio(ours, rows, PER_CPU_SECOND):.2f}",
        "-",
        "-",
    )


def line(row: tuple[str, ...], widths: list[int]) -> str:
    """Words to the left, numbers to the right."""
    align: list[Callable[..., str]] = [str.ljust] * 2 + [str.rjust] * (len(row) - 2)
    return "  ".join(
        put(cell, width) for put, cell, width in zip(align, row, widths, strict=True)
    ).rstrip()


def arguments() -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loader", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="of steady state per measurement (default 2)"
    )
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], choices=range(1, 9), metavar="1..8"
    )
    parser.add_argument("--cases", nargs="+", default=["long-500", "short-384"], choices=CASES)
    parser.add_argument(
        "--photos", type=Path, default=PHOTOS, help="a folder of *.jpg with captions.tsv"
    )
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.rounds < 1 or options.seconds <= 0:
        raise SystemExit(
            f"--rounds {options.rounds} --seconds {options.seconds}: expected at least 1, and more than 0"
        )
    photos(options.photos)
    make_vocabulary(options.photos, FOLDER / "vocabulary")
    for case in options.cases:
        make_shards(options.photos, FOLDER / case, case)
    results = run(options.cases, options.workers, options.rounds, options.seconds)
    print(f"\nmedians of {options.rounds} rounds; 64 pairs a batch, 289 x 289")
    print(table(results))


if __name__ == "__main__":
    main()
