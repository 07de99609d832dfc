"""Shards with few pairs, for the benchmarks whose subject is not decoding.

They hold real photos over and over, under distinct keys. Without the photos at hand, JPEGs of noise
take their place. A thousand shards of 20 pairs take seconds.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from align_train.shards.write import write_shard
from align_train.stream.wordpiece import train_tokenizer
from benchmarks.shared.photos import PHOTOS, captions, jpeg_of, pairs_of, write_manifest

VOCABULARY = "vocabulary"  # folder beside the tars
_TOKENS = 4096
_NOISE_IMAGES = 50


def _noise(side: int) -> list[tuple[bytes, str]]:
    random = np.random.default_rng(0)
    pairs = []
    for index in range(_NOISE_IMAGES):
        size = (side * 3 // 4, side, 3)
        pixels = random.integers(0, 256, size, dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=50)
        pairs.append((file.getvalue(), f"noise number {index} of fifty"))
    return pairs


def _photos(side: int) -> list[tuple[bytes, str]]:
    paths = sorted(PHOTOS.glob("*.jpg"))
    images = {path.name: jpeg_of(path, f"long-{side}") for path in paths}
    return pairs_of(images, captions(PHOTOS))


def make(folder: Path, *, shards: int, pairs: int, side: int) -> str:
    """Writes shards, their indices, their manifest and a tokenizer into a new folder.

    Args:
        folder: The folder; its former content is deleted.
        shards: The number of shards.
        pairs: Pairs of each shard.
        side: The longer side of an image in pixels.

    Returns:
        The kind of images, in words.
    """
    real = any(PHOTOS.glob("*.jpg"))
    repeated = _photos(side) if real else _noise(side)
    shutil.rmtree(folder, ignore_errors=True)

    def members(shard: int) -> Iterator[tuple[str, dict[str, bytes]]]:
        for index in range(shard * pairs, (shard + 1) * pairs):
            image, text = repeated[index % len(repeated)]
            yield f"{index:09d}", {"jpg": image, "txt": text.encode()}

    for shard in range(shards):
        write_shard(folder / f"{shard:05d}.tar", members(shard))
    write_manifest(folder)

    texts = [text for _, text in repeated]
    train_tokenizer(lambda: [texts], size=_TOKENS, folder=folder / VOCABULARY)
    return "real photos" if real else "noise"
