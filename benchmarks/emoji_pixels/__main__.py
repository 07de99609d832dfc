"""The emoji experiment's baseline: nearest neighbours in pixels, across two vendors' drawings.

    python -m benchmarks.emoji_pixels shards/noto shards/twemoji [outputs/emoji]

The answer to each twemoji image is the noto image that is nearest in small pixels. Near is meant by
squared distance, or by the cosine once the mean image is taken off. Nothing is learned but that
mean. With a run's folder as third argument, its image -> text recall on the same images stands
below. That task is harder: the run has only the names at hand then, not noto's drawings.

Price: seconds.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from align_train.shards.caption import CaptionSource
from align_train.shards.resolve import resolve
from align_train.stream.decode import Views
from align_train.stream.held_out import HeldOutPairs
from align_train.stream.pairs import Pairs
from benchmarks.shared.command_line import parser_of

SIDES = (12, 16)  # pixels

Pixels = NDArray[np.float64]


def read_images(shards: str, side: int) -> tuple[Pixels, list[str]]:
    """Reads a vendor's images.

    Args:
        shards: Its shards.
        side: The side of an image in pixels.

    Returns:
        `[images, side * side * 3]` in [0, 1], and the name of each one's file.
    """
    caption = CaptionSource.parse("txt")
    pairs = HeldOutPairs(
        pairs=Pairs(
            manifest=resolve(shards, caption=caption),
            caption=caption,
            views=Views(image_size=side, resize_size=side, flip=False),
        )
    )
    images = np.stack([pairs[index] for index in range(len(pairs))])
    pixels = images.reshape(len(pairs), -1) / 255.0
    names = [Path(record["source"]).name for _, record in pairs.about()]
    return pixels, names


def recall(queries: Pixels, gallery: Pixels, right: NDArray[np.int64]) -> tuple[float, float]:
    """Computes recall at 1 by squared distance and by centred cosine.

    Args:
        queries: `[queries, numbers]`.
        gallery: `[images, numbers]`.
        right: `[queries]`, the index of the right answer.
    """
    # A query's own square is left out: it is the same for all images.
    squares = (gallery**2).sum(axis=1)
    distance = squares[None, :] - 2 * queries @ gallery.T
    by_distance = np.mean(distance.argmin(axis=1) == right)

    mean = gallery.mean(axis=0)
    cosine = _unit(queries - mean) @ _unit(gallery - mean).T
    by_cosine = np.mean(cosine.argmax(axis=1) == right)
    return float(by_distance), float(by_cosine)


def _unit(rows: Pixels) -> Pixels:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Pixels = rows / norms
    return unit


def main() -> None:
    parser = parser_of("emoji_pixels", __doc__)
    parser.add_argument("noto", help="shards of the images among which the answer is sought")
    parser.add_argument("twemoji", help="shards of the images that are answered")
    parser.add_argument("run", nargs="?", type=Path, help="the folder of a finished run")
    options = parser.parse_args()

    rows: list[tuple[str, float]] = []
    for side in SIDES:
        gallery, gallery_names = read_images(options.noto, side)
        queries, query_names = read_images(options.twemoji, side)
        right = np.array([gallery_names.index(name) for name in query_names])
        distance, cosine = recall(queries, gallery, right)
        rows.append((f"pixels, {side} px, squared distance", distance))
        rows.append((f"pixels, {side} px, centred cosine", cosine))
    rows.append(("chance", 1 / len(gallery)))

    if options.run is not None:
        results = json.loads((options.run / "results.json").read_text(encoding="utf-8"))
        rows.append((f"{options.run}, image -> text", results["retrieval/image_to_text/recall@1"]))

    print(f"recall@1 of {len(queries):,} images among {len(gallery):,}")
    for name, value in rows:
        print(f"{name:<40} {value:.4f}")


if __name__ == "__main__":
    main()
