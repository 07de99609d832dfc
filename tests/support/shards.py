"""Small shards and their pairs."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import Manifest
from align_train.shards.resolve import resolve
from align_train.stream.decode import Views
from align_train.stream.order import Order
from align_train.stream.pairs import Pairs
from align_train.stream.pieces import Piece, TrainingPieces
from align_train.stream.replacement import Gone
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


def pieces_of(
    folder: Path, demo: Path, *, caption: CaptionSource = TXT, **options: Any
) -> TrainingPieces:
    manifest: Manifest = resolve(str(folder), caption=caption)
    pairs = Pairs(
        manifest=manifest, caption=caption, views=Views(image_size=16, resize_size=20), **options
    )
    order = Order(counts=manifest.counts, seed=3, lanes=2, window=64)
    encode = Tokenizer(str(demo / "tokenizer"), max_tokens=16)
    return TrainingPieces(pairs=pairs, order=order, vocabulary=encode, batch_size=8)


def made(pieces: TrainingPieces, step: int, slots: range) -> Piece:
    """The pairs at some places of a step, of which no shard has vanished."""
    piece = pieces.make(step, slots, np.empty(pieces.shape(len(slots)), dtype=np.uint8))
    assert not isinstance(piece, Gone)
    return piece
