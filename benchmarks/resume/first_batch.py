"""Seconds to the first batch at a place in an epoch, in a process of its own; started by `benchmarks.resume`.

    python -m benchmarks.resume_first_batch ours|webdataset SHARDS PLACE

PLACE is a share of the epoch. Prints one JSON line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import webdataset
from numpy.typing import NDArray

from align_train.stream.chunks import TrainingChunks
from align_train.stream.decode import Pixels, Views, decode
from align_train.stream.loader import ChunkSchedule, TrainingLoader
from align_train.stream.order import Order
from align_train.stream.recipe import Start
from align_train.stream.tokenizer import Tokenizer
from benchmarks.loader.ours import BATCH, IMAGE_SIZE, MAX_TOKENS, RESIZE_SIZE, make_pairs
from benchmarks.shared.clock import report
from benchmarks.shared.small_shards import VOCABULARY

SEED, LANES, WINDOW = 0, 8, 16384


def ours(shards: str, place: float) -> Iterator[int]:
    """Batches from the step on at which a run was interrupted, as a resumed run builds them."""
    pairs = make_pairs(shards)
    step = int(pairs.manifest.pairs * place) // BATCH
    chunks = TrainingChunks(
        pairs=pairs,
        order=Order(counts=pairs.manifest.counts, seed=SEED, lanes=LANES, window=WINDOW),
        vocabulary=Tokenizer(str(Path(shards) / VOCABULARY), max_tokens=MAX_TOKENS),
        batch_size=BATCH,
        chunk_size=BATCH,
        start=Start(finished_steps=step, cursor=step * BATCH),
    )
    schedule = ChunkSchedule(finished_steps=step, first_chunk=0, chunks_per_step=1)
    for batch in TrainingLoader(chunks=chunks, schedule=schedule, workers=1, pin_memory=False):
        assert batch.finished_steps >= step
        yield len(batch)


def from_webdataset(shards: str, place: float) -> Iterator[int]:
    """Batches from the same place on: raw samples are skipped, then decoded and tokenised by what ours uses."""
    names = sorted(map(str, Path(shards).glob("*.tar")))
    pairs = make_pairs(shards).manifest.pairs
    views = Views(image_size=IMAGE_SIZE, resize_size=RESIZE_SIZE)
    encode = Tokenizer(str(Path(shards) / VOCABULARY), max_tokens=MAX_TOKENS)
    random = Random(SEED)

    def decoded(sample: dict[str, bytes]) -> tuple[Pixels, str]:
        return decode(sample["jpg"], views.draw(random), IMAGE_SIZE), sample["txt"].decode()

    def collated(samples: Iterable[tuple[Pixels, str]]) -> tuple[torch.Tensor, NDArray[np.int32]]:
        pixels, texts = zip(*samples, strict=True)
        return torch.from_numpy(np.stack(pixels)), encode(texts)

    samples: Any = webdataset.WebDataset(names, shardshuffle=False)
    dataset = (
        samples.slice(int(pairs * place) // BATCH * BATCH, None)
        .map(decoded)
        .batched(BATCH, collation_fn=collated)
    )
    for images, _ in webdataset.WebLoader(dataset, batch_size=None, num_workers=1):
        yield len(images)


def main(loader: str, shards: str, place: float) -> None:
    batches = {"ours": ours, "webdataset": from_webdataset}[loader]
    asked = time.perf_counter()
    if next(batches(shards, place)) != BATCH:
        raise ValueError("the first batch is short")
    report({"seconds": time.perf_counter() - asked})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
