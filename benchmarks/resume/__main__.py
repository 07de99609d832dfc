"""The wait for a run's first batch: from the start and resumed late in an epoch, two loaders.

    python -m benchmarks.resume [--rounds 5]

The data is 1,000 shards of 20 pairs (longer side 160), in batches of 64 at 289 x 289, for one
worker. Each measurement is a fresh process. A round measures each place once, one after another,
and each round begins with another one. The clock runs from the end of the imports until the first
batch is there: the manifest is read, order, tokenizer and loader are built, the worker is started.
Indices are there already, as they are when a run resumes.

- ours asks the order for the step.
- webdataset reads and skips the samples before it, raw, nothing decoded (`.slice`), then goes on
  with our decoder and tokenizer. It has no shuffle, which it could not resume. A user who knows the
  counts could leave out whole shards by hand; this one does not.

Target: ours at 95 % takes at most 1.5 times what it takes at 0 %. Price: three minutes on two
cores; 200 MB in `outputs/`.
"""

from __future__ import annotations

from itertools import product
from statistics import median

from tqdm import tqdm

from benchmarks.shared.children import REPOSITORY, json_of
from benchmarks.shared.command_line import parser_of, refuse_no_rounds
from benchmarks.shared.small_shards import make

FOLDER = REPOSITORY / "outputs" / "benchmarks" / "resume"

SHARDS = 1000
PAIRS = 20  # of a shard
SIDE = 160  # pixels

LOADERS = ("ours", "webdataset")
START = 0.0
LATE = 0.95
PLACES = (START, 0.1, 0.5, LATE)  # shares of an epoch

TASKS = list(product(LOADERS, PLACES))
TARGET = 1.5

Seconds = dict[tuple[str, float], list[float]]


def measured(loader: str, place: float) -> float:
    """Returns the seconds to the first batch, in a process of its own."""
    result = json_of("benchmarks.resume.first_batch", loader, str(FOLDER), str(place))
    return float(result["seconds"])


def run(rounds: int) -> Seconds:
    """Measures all loaders and places."""
    seconds: Seconds = {task: [] for task in TASKS}
    with tqdm(total=rounds * len(TASKS), unit="measurement") as bar:
        for turn in range(rounds):
            begin = turn * 3 % len(TASKS)
            for task in TASKS[begin:] + TASKS[:begin]:
                seconds[task].append(measured(*task))
                bar.update()
    return seconds


def row_of(loader: str, seconds: Seconds) -> str:
    """Returns a loader's row, with a verdict on ours."""
    cells = "".join(f"{median(seconds[loader, place]):>9.2f}" for place in PLACES)
    rounds = zip(seconds[loader, LATE], seconds[loader, START], strict=True)
    ratio = median(late / start for late, start in rounds)
    verdict = ""
    if loader == "ours":
        verdict = f"   {'ok' if ratio <= TARGET else 'MISSED'} (target {TARGET})"
    return f"{loader:<28}{cells}{ratio:>14.2f}{verdict}"


def main() -> None:
    parser = parser_of("resume", __doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    refuse_no_rounds(rounds)

    kind = make(FOLDER, shards=SHARDS, pairs=PAIRS, side=SIDE)
    size = sum(path.stat().st_size for path in FOLDER.glob("*.tar"))
    print(
        f"{SHARDS:,} shards x {PAIRS} pairs ({kind}), {size / 1e6:.0f} MB; "
        f"medians of {rounds} rounds",
        flush=True,
    )
    seconds = run(rounds)

    places = "".join(f"{place:>9.0%}" for place in PLACES)
    print(f"\n{'seconds to the first batch':<28}{places}{'95 % / 0 %':>14}")
    for loader in LOADERS:
        print(row_of(loader, seconds))

    late = median(seconds["webdataset", LATE])
    start = median(seconds["webdataset", START])
    epochs_per_second = LATE / (late - start)
    pairs_rate = SHARDS * PAIRS * epochs_per_second
    bytes_rate = size * epochs_per_second
    print(
        f"webdataset skips {pairs_rate:,.0f} pairs/s by reading them: "
        f"{bytes_rate / 1e6:,.0f} MB/s, from the page cache"
    )


if __name__ == "__main__":
    main()
