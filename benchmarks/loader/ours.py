"""One measurement of our loader, or of decoding alone; started by `benchmarks.loader`.

    python -m benchmarks.loader.ours ours|decode SHARDS VOCABULARY WORKERS SECONDS

It has a process of its own, and prints one JSON line. `decode` is the ceiling: our decode() of the
same bytes with random views, in one process and one thread. Nothing is read, tokenised, or handed
over.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from random import Random

import torch

from align_train.stream.decode import decode
from benchmarks.shared.clock import Arrays, measure, report
from benchmarks.shared.our_loader import make_loader, make_pairs
from benchmarks.shared.proc import cpu_seconds
from benchmarks.shared.sizes import IMAGE_SIZE

AT_A_TIME = 51  # images between two looks at the clock: each photo once


def batches(shards: str, vocabulary: str, workers: int) -> Iterator[Arrays]:
    """Yields images and token ids of our loader's batches."""
    for batch in make_loader(make_pairs(shards), vocabulary, workers=workers):
        yield batch.images, batch.input_ids


def decode_alone(shards: str, seconds: float) -> dict[str, float]:
    """Measures decoding.

    Args:
        shards: A folder of shards, of which the first is decoded over and over.
        seconds: The least time that is measured.
    """
    torch.set_num_threads(1)  # as torch's DataLoader does in a worker
    pairs = make_pairs(shards)
    reader = pairs.reader(0)
    images = [reader.read(index)[0] for index in range(len(reader))]
    random = Random(0)

    # The first call loads libraries, which is no decoding.
    decode(images[0], pairs.views.draw(random), IMAGE_SIZE)

    done = 0
    started = time.perf_counter()
    cpu_started = cpu_seconds()
    while time.perf_counter() - started < seconds:
        for image in images[:AT_A_TIME]:
            decode(image, pairs.views.draw(random), IMAGE_SIZE)
        images = images[AT_A_TIME:] + images[:AT_A_TIME]
        done += AT_A_TIME
    elapsed = time.perf_counter() - started
    cpu = cpu_seconds() - cpu_started
    return {"pairs_per_second": done / elapsed, "pairs_per_cpu_second": done / cpu}


def main(loader: str, shards: str, vocabulary: str, workers: int, seconds: float) -> None:
    if loader == "decode":
        report(decode_alone(shards, seconds))

    figures = measure(
        lambda: batches(shards, vocabulary, workers),
        workers=workers,
        seconds=seconds,
        side=IMAGE_SIZE,
    )
    report(figures)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
