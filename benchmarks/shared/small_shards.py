"""Shards with few pairs, for the benchmarks whose subject is not decoding: real photos over and over, under distinct keys.

Where the photos are not at hand, JPEGs of noise take their place. A thousand shards of 20 pairs take seconds.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import MANIFEST_NAME
from align_train.shards.resolve import resolve
from align_train.shards.write import write_shard
from align_train.stream.wordpiece import train_tokenizer
from benchmarks.shared.photos import PHOTOS, captions, encoded

VOCABULARY = "vocabulary"  # folder beside the tars


def _noise(side: int) -> list[tuple[bytes, str]]:
    random = np.random.default_rng(0)
    visits = []
    for number in range(50):
        file = io.BytesIO()
        pixels = random.integers(0, 256, (side * 3 // 4, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "JPEG", quality=50)
        visits.append((file.getvalue(), f"noise number {number} of fifty"))
    return visits


def _photos(side: int) -> list[tuple[bytes, str]]:
    texts = captions(PHOTOS)
    pictures = {path.name: encoded(path, f"long-{side}") for path in sorted(PHOTOS.glob("*.jpg"))}
    return [(pictures[name], text) for name in pictures for text in texts[name][:5]]


def make(folder: Path, *, shards: int, pairs: int, side: int) -> str:
    """Writes shards of so many pairs each, whose pictures' longer side is `side`, their indices, their manifest and a
    tokenizer into a new folder; returns what the pictures are."""
    real = any(PHOTOS.glob("*.jpg"))
    visits = _photos(side) if real else _noise(side)
    shutil.rmtree(folder, ignore_errors=True)

    def members(shard: int) -> Iterator[tuple[str, dict[str, bytes]]]:
        for number in range(shard * pairs, (shard + 1) * pairs):
            picture, text = visits[number % len(visits)]
            yield f"{number:09d}", {"jpg": picture, "txt": text.encode()}

    for shard in range(shards):
        write_shard(folder / f"{shard:05d}.tar", members(shard))
    manifest = resolve(
        str(folder), caption=CaptionSource.parse("txt"), progress=False
    )  # builds the indices too
    manifest.write(folder / MANIFEST_NAME)
    train_tokenizer(lambda: [[text for _, text in visits]], size=4096, folder=folder / VOCABULARY)
    return "real photos" if real else "noise"
