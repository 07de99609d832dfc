"""Seconds to the first batch at a place in an epoch; started by `benchmarks.resume`.

    python -m benchmarks.resume.first_batch ours|webdataset SHARDS PLACE

PLACE is a share of the epoch. It has a process of its own, and prints one JSON line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import torch
import webdataset
from numpy.typing import NDArray

from align_train.stream.decode import Pixels, Views, decode
from align_train.stream.tokenizer import Tokenizer
from benchmarks.shared.clock import report
from benchmarks.shared.our_loader import SEED, make_loader, make_pairs
from benchmarks.shared.sizes import BATCH, IMAGE_SIZE, MAX_TOKENS, RESIZE_SIZE
from benchmarks.shared.small_shards import VOCABULARY


def ours(shards: str, place: float) -> Iterator[int]:
    """Yields the sizes of our batches, as a resumed run builds them.

    Args:
        shards: A folder of shards, with a vocabulary beside them.
        place: The share of an epoch after which the run was interrupted.
    """
    pairs = make_pairs(shards)
    finished_steps = int(pairs.manifest.pairs * place) // BATCH
    vocabulary = str(Path(shards) / VOCABULARY)
    for batch in make_loader(pairs, vocabulary, workers=1, finished_steps=finished_steps):
        assert batch.finished_steps >= finished_steps
        yield len(batch)


def from_webdataset(shards: str, place: float) -> Iterator[int]:
    """Yields the sizes of webdataset's batches.

    Raw samples are skipped; the others are decoded and tokenised by our own functions.

    Args:
        shards: A folder of shards, with a vocabulary beside them.
        place: The share of an epoch that is skipped.
    """
    paths = [str(path) for path in sorted(Path(shards).glob("*.tar"))]
    pairs = make_pairs(shards).manifest.pairs
    views = Views(image_size=IMAGE_SIZE, resize_size=RESIZE_SIZE)
    tokenizer = Tokenizer(str(Path(shards) / VOCABULARY), max_tokens=MAX_TOKENS)
    random = Random(SEED)

    def decoded(sample: dict[str, bytes]) -> tuple[Pixels, str]:
        image = decode(sample["jpg"], views.draw(random), IMAGE_SIZE)
        return image, sample["txt"].decode()

    def collated(samples: Iterable[tuple[Pixels, str]]) -> tuple[torch.Tensor, NDArray[np.int32]]:
        images, texts = zip(*samples, strict=True)
        return torch.from_numpy(np.stack(images)), tokenizer(texts)

    # Whole batches are skipped, as ours does: both begin at the same pair.
    skipped = int(pairs * place) // BATCH * BATCH
    dataset = (
        webdataset.WebDataset(paths, shardshuffle=False)
        .slice(skipped, None)
        .map(decoded)
        .batched(BATCH, collation_fn=collated)
    )
    for images, _ in webdataset.WebLoader(dataset, batch_size=None, num_workers=1):
        yield len(images)


def main(loader: str, shards: str, place: float) -> None:
    batches = ours if loader == "ours" else from_webdataset
    asked = time.perf_counter()
    if next(batches(shards, place)) != BATCH:
        raise ValueError("the first batch is short")
    report({"seconds": time.perf_counter() - asked})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
