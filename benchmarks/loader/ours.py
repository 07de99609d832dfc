"""One measurement of our loader, or of decoding alone, in a process of its own; started by `benchmarks.loader`.

    python -m benchmarks.loader_ours ours|decode SHARDS VOCABULARY WORKERS SECONDS

Prints one JSON line. `decode` is the ceiling: our decode() of the same bytes with random views, in one process, in one
thread, with nothing read, tokenised, or handed over.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from random import Random

import torch

from align_train.shards.caption import CaptionSource
from align_train.shards.resolve import resolve
from align_train.stream.chunks import TrainingChunks
from align_train.stream.decode import Views, decode
from align_train.stream.loader import ChunkSchedule, TrainingLoader
from align_train.stream.order import Order
from align_train.stream.pairs import Pairs
from align_train.stream.tokenizer import Tokenizer
from benchmarks.shared.clock import Arrays, cpu_seconds, measure, report

BATCH, IMAGE_SIZE, RESIZE_SIZE, MAX_TOKENS = 64, 289, 346, 64


def make_pairs(shards: str) -> Pairs:
    caption = CaptionSource.parse("txt")
    manifest = resolve(shards, caption=caption, progress=False)
    return Pairs(
        manifest=manifest,
        caption=caption,
        views=Views(image_size=IMAGE_SIZE, resize_size=RESIZE_SIZE),
    )


def make_loader(shards: str, vocabulary: str, workers: int) -> TrainingLoader:
    """Our loader as a run on one device has it."""
    pairs = make_pairs(shards)
    chunks = TrainingChunks(
        pairs=pairs,
        order=Order(counts=pairs.manifest.counts, seed=0, lanes=8, window=16384),
        vocabulary=Tokenizer(vocabulary, max_tokens=MAX_TOKENS),
        batch_size=BATCH,
        chunk_size=BATCH,
    )
    schedule = ChunkSchedule(finished_steps=0, first_chunk=0, chunks_per_step=1)
    return TrainingLoader(chunks=chunks, schedule=schedule, workers=workers, pin_memory=False)


def batches(shards: str, vocabulary: str, workers: int) -> Iterator[Arrays]:
    for batch in make_loader(shards, vocabulary, workers):
        (chunk,) = batch.chunks
        yield chunk.images, chunk.input_ids


def decode_alone(shards: str, seconds: float) -> dict[str, float]:
    torch.set_num_threads(1)  # as torch's DataLoader does in a worker
    pairs = make_pairs(shards)
    reader = pairs.reader(0)
    pictures = [reader.read(number)[0] for number in range(len(reader))]
    random = Random(0)
    decode(
        pictures[0], pairs.views.draw(random), IMAGE_SIZE
    )  # what is loaded at the first call is no decoding
    done = 0
    started, cpu = time.perf_counter(), cpu_seconds()
    while time.perf_counter() - started < seconds:
        for picture in pictures[:51]:
            decode(picture, pairs.views.draw(random), IMAGE_SIZE)
        pictures = pictures[51:] + pictures[:51]
        done += 51
    elapsed, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    return {"pairs_per_second": done / elapsed, "pairs_per_cpu_second": done / cpu}


def main(loader: str, shards: str, vocabulary: str, workers: int, seconds: float) -> None:
    if loader == "decode":
        report(decode_alone(shards, seconds))
    report(
        measure(
            lambda: batches(shards, vocabulary, workers),
            workers=workers,
            seconds=seconds,
            side=IMAGE_SIZE,
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
