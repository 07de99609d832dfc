"""Shards for the measured runs: small JPEGs of noise, each with a text longer than any limit."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from align_train.shards.write import write_shard
from align_train.stream.wordpiece import train_tokenizer
from benchmarks.shared.photos import write_manifest

SHARDS = 8
PAIRS = 64  # of a shard
SIDE = 64  # pixels: the loader makes them larger, which costs less than to decode large ones
WORDS = 64  # of a text; a word is one token or more
VOCABULARY = "vocabulary"  # a folder beside the tars
TOKENS = 2000


def make_shards(folder: Path) -> None:
    """Writes shards, their manifest and a tokenizer into a folder.

    Args:
        folder: The folder.
    """
    pixels = np.random.default_rng(0)
    words = Random(0)
    syllables = [first + second for first in "bdfgklmnprst" for second in "aeiou"]
    texts: list[str] = []

    def text() -> str:
        made = ["".join(words.choices(syllables, k=2)) for _ in range(WORDS)]
        texts.append(" ".join(made))
        return texts[-1]

    def members(shard: int) -> Iterator[tuple[str, dict[str, bytes]]]:
        for index in range(shard * PAIRS, (shard + 1) * PAIRS):
            file = io.BytesIO()
            image = pixels.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(image).save(file, "JPEG", quality=50)
            yield f"{index:06d}", {"jpg": file.getvalue(), "txt": text().encode()}

    for shard in range(SHARDS):
        write_shard(folder / f"{shard:05d}.tar", members(shard))
    write_manifest(folder)
    train_tokenizer(lambda: [texts], size=TOKENS, folder=folder / VOCABULARY)
