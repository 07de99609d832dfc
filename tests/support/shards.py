"""Small shards and their chunks."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import Manifest
from align_train.shards.resolve import resolve
from align_train.stream.chunks import TrainingChunks
from align_train.stream.decode import Views
from align_train.stream.order import Order
from align_train.stream.pairs import Pairs
from align_train.stream.tokenizer import Tokenizer

TXT = CaptionSource.parse("txt")


def contents(shards: Path) -> list[tuple[str, bytes]]:
    found = []
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                file = tar.extractfile(member)
                assert file is not None
                found.append((member.name, file.read()))
    return found


# what the stream makes of them


def chunks_of(
    folder: Path, demo: Path, *, caption: CaptionSource = TXT, **options: Any
) -> TrainingChunks:
    manifest: Manifest = resolve(str(folder), caption=caption)
    pairs = Pairs(
        manifest=manifest, caption=caption, views=Views(image_size=16, resize_size=20), **options
    )
    order = Order(counts=manifest.counts, seed=3, lanes=2, window=64)
    encode = Tokenizer(str(demo / "tokenizer"), max_tokens=16)
    return TrainingChunks(pairs=pairs, order=order, vocabulary=encode, batch_size=8, chunk_size=4)
