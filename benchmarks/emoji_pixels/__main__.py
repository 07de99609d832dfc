"""The emoji experiment's baseline: nearest neighbours in pixels, from one vendor's drawings to the other's.

    python -m benchmarks.emoji_pixels shards/noto shards/twemoji [outputs/emoji]

Each twemoji picture is answered by the noto picture that is nearest in small pixels: squared distance, or the cosine of
what is left after the mean picture is taken off. Nothing is learned but that mean. With a run's folder as third argument,
its picture -> text recall on the same pictures stands below; that task is harder: noto's drawings are not at hand then,
only the names. Takes seconds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from align_train.shards.caption import CaptionSource
from align_train.shards.resolve import resolve
from align_train.stream.decode import Views
from align_train.stream.held_out import HeldOutPairs
from align_train.stream.pairs import Pairs

SIDES = (12, 16)


def pictures(shards: str, side: int) -> tuple[NDArray[np.float64], list[str]]:
    """`[pictures, side * side * 3]` in [0, 1], and each one's file name."""
    caption = CaptionSource.parse("txt")
    manifest = resolve(shards, caption=caption)
    pairs = HeldOutPairs(
        pairs=Pairs(
            manifest=manifest,
            caption=caption,
            views=Views(image_size=side, resize_size=side, flip=False),
        )
    )
    pixels = (
        np.stack([pairs[number] for number in range(len(pairs))]).reshape(len(pairs), -1) / 255.0
    )
    return pixels, [record["source"] for _, record in pairs.about()]


def recall(
    queries: NDArray[np.float64], gallery: NDArray[np.float64], right: NDArray[np.int64]
) -> tuple[float, float]:
    """Recall at 1 by squared distance and by centred cosine."""
    distance = (gallery**2).sum(1)[None, :] - 2 * queries @ gallery.T
    mean = gallery.mean(axis=0)
    centred = [
        (table - mean) / np.linalg.norm(table - mean, axis=1, keepdims=True)
        for table in (queries, gallery)
    ]
    cosine = centred[0] @ centred[1].T
    return float(np.mean(distance.argmin(axis=1) == right)), float(
        np.mean(cosine.argmax(axis=1) == right)
    )


def main(noto: str, twemoji: str, run: str | None = None) -> None:
    rows = []
    for side in SIDES:
        gallery, gallery_names = pictures(noto, side)
        queries, query_names = pictures(twemoji, side)
        right = np.array([gallery_names.index(name) for name in query_names])
        distance, cosine = recall(queries, gallery, right)
        rows += [
            (f"pixels, {side} px, squared distance", distance),
            (f"pixels, {side} px, centred cosine", cosine),
        ]
    rows.append(("chance", 1 / len(gallery)))
    if run is not None:
        results = json.loads((Path(run) / "results.json").read_text(encoding="utf-8"))
        rows.append((f"{run}, picture -> text", results["retrieval/image_to_text/recall@1"]))
    print(f"recall@1 of {len(queries):,} pictures among {len(gallery):,}")
    for name, value in rows:
        print(f"{name:<40} {value:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
