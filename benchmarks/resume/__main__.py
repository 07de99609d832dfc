"""How long a run waits for its first batch: from the start and resumed late in an epoch, ours and webdataset's.

    python -m benchmarks.resume [--rounds 5]

1,000 shards of 20 pairs (longer side 160), batches of 64 at 289 x 289, one worker. Each measurement is a fresh process; a round
measures each place once, one after another, beginning with another each time. The clock runs from when the imports are done
until the first batch is there: the manifest is read, order, tokenizer and loader are built, the worker is started. Indices are
there already, as they are when a run resumes.

- ours asks the order for the step.
- webdataset reads and skips the samples before it, raw, nothing decoded (`.slice`), then goes on with our decoder and
  tokenizer. No shuffle, which it could not resume. Who knows the counts could leave out whole shards by hand; it does not.

Target: ours at 95 % takes at most 1.5 times what it takes at 0 %. Price: three minutes on two cores; 200 MB in `outputs/`.
"""

from __future__ import annotations

import argparse
import json
from statistics import median

from tqdm import tqdm

from benchmarks.shared.children import TOP, printed
from benchmarks.shared.small_shards import make

FOLDER = TOP / "outputs" / "benchmarks" / "resume"


SHARDS, PAIRS, SIDE = 1000, 20, 160


PLACES = (0.0, 0.1, 0.5, 0.95)


TASKS = [(loader, place) for loader in ("ours", "webdataset") for place in PLACES]


TARGET = 1.5


Seconds = dict[tuple[str, float], list[float]]


def measured(loader: str, place: float) -> float:
    found = printed("benchmarks.resume.first_batch", loader, str(FOLDER), str(place))
    return float(json.loads(found.splitlines()[-1])["seconds"])


def run(rounds: int) -> Seconds:
    seconds: Seconds = {task: [] for task in TASKS}
    with tqdm(total=rounds * len(TASKS), unit="measurement") as bar:
        for turn in range(rounds):
            begin = turn * 3 % len(TASKS)
            for task in TASKS[begin:] + TASKS[:begin]:
                seconds[task].append(measured(*task))
                bar.update()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.resume", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    if rounds < 1:
        raise SystemExit(f"--rounds {rounds}: expected at least 1")
    kind = make(FOLDER, shards=SHARDS, pairs=PAIRS, side=SIDE)
    size = sum(path.stat().st_size for path in FOLDER.glob("*.tar"))
    print(
        f"{SHARDS:,} shards x {PAIRS} pairs ({kind}), {size / 1e6:.0f} MB; medians of {rounds} rounds",
        flush=True,
    )
    seconds = run(rounds)
    print(
        f"\n{'seconds to the first batch':<28}"
        + "".join(f"{place:>9.0%}" for place in PLACES)
        + f"{'95 % / 0 %':>14}"
    )
    for loader in ("ours", "webdataset"):
        row = "".join(f"{median(seconds[loader, place]):>9.2f}" for place in PLACES)
        ratio = median(
            late / start
            for late, start in zip(seconds[loader, 0.95], seconds[loader, 0.0], strict=True)
        )
        verdict = (
            f"   {'ok' if ratio <= TARGET else 'MISSED'} (target {TARGET})"
            if loader == "ours"
            else ""
        )
        print(f"{loader:<28}{row}{ratio:>14.2f}{verdict}")
    late, start = (median(seconds["webdataset", place]) for place in (0.95, 0.0))
    rate = 0.95 / (late - start)  # epochs per second
    pairs_rate, bytes_rate = SHARDS * PAIRS * rate, size * rate
    print(
        f"webdataset skips {pairs_rate:,.0f} pairs/s by reading them: {bytes_rate / 1e6:,.0f} MB/s, from the page cache"
    )


if __name__ == "__main__":
    main()
