"""Recall and false positives on images whose copies are known, with a trained model's embeddings.

Three sets: photos, emoji of one font, and the demo's drawings. Of each image there are copies,
altered as on the web. For each kind of alteration, a set's originals and its copies of that kind
are compared with each other, the originals first. A row shows the share of these copies that go,
at several thresholds; the row *false* shows the share of the originals alone that goes. A copy may
stay although it is near its original, if that has gone for the sake of another image.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import align_train
from align_train.demo.draw import draw
from align_train.demo.scene import sample_scene
from align_train.pretrained.load import TrainedModel
from align_train.stream.image_file import open_image
from benchmarks.near_duplicates.__main__ import copies_of, jpeg
from data.repeats.cells import make_cells
from data.repeats.greedy import STAYS, find_keepers
from data.repeats.rows import Rows

THRESHOLDS = (0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)

_EVERY = 8  # one emoji in so many
_DRAWN = 256
_SIDE = 96  # pixels of a drawing
_HUE = 20  # of 256 around the circle
_WARM = (1.15, 1.0, 0.85)  # of red, green and blue

Floats = NDArray[np.float32]


def show(model: Path, data: Path) -> None:
    """Prints a table for each set.

    Args:
        model: A trained model's folder.
        data: A folder with photos/*.jpg and emoji/noto/*.png.
    """
    loaded = align_train.load(str(model))
    emoji = sorted((data / "emoji" / "noto").glob("*.png"))
    sets = {
        "photos": [_open(path) for path in sorted((data / "photos").glob("*.jpg"))],
        "emoji": [_open(path) for path in emoji[::_EVERY]],
        "drawings": [_drawn(seed) for seed in range(_DRAWN)],
    }
    for name, images in sets.items():
        print(f"\n| {len(images)} {name} | " + " | ".join(f"{t:g}" for t in THRESHOLDS) + " |")
        print("|---|" + "--:|" * len(THRESHOLDS))
        originals = _embed(loaded, images)
        for kind, altered in _altered(images).items():
            # The originals come first: of two that are near each other the copy goes.
            both = np.concatenate([originals, _embed(loaded, altered)])
            _print(kind, [_gone(both, least)[len(images) :].mean() for least in THRESHOLDS])
        _print("false", [_gone(originals, least).mean() for least in THRESHOLDS])


def _print(name: str, shares: list[float]) -> None:
    cells = " | ".join(f"{share:.0%}" for share in shares)
    print(f"| {name} | {cells} |", flush=True)


def _open(path: Path) -> Image.Image:
    return open_image(str(path)).convert("RGB")


def _drawn(seed: int) -> Image.Image:
    return draw(sample_scene(Random(seed)), _SIDE)


def _altered(images: list[Image.Image]) -> dict[str, list[Image.Image]]:
    """The copies of all images, by the kind of alteration."""
    altered: dict[str, list[Image.Image]] = {}
    for image in images:
        copies = {
            **copies_of(image),
            "warmer": jpeg(_warmer(image)),
            "hue turned by 28 degrees": jpeg(_turned(image)),
            "mirrored": jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        }
        for kind, copy in copies.items():
            altered.setdefault(kind, []).append(Image.open(io.BytesIO(copy)).convert("RGB"))
    return altered


def _warmer(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32) * np.array(_WARM, dtype=np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _turned(image: Image.Image) -> Image.Image:
    hue, *others = image.convert("HSV").split()
    turned = hue.point([(value + _HUE) % 256 for value in range(256)])
    return Image.merge("HSV", (turned, *others)).convert("RGB")


@torch.inference_mode()
def _embed(model: TrainedModel, images: list[Image.Image]) -> Floats:
    embeddings: Floats = model.encode_images(images).float().cpu().numpy()
    return embeddings


def _gone(embeddings: Floats, threshold: float) -> NDArray[np.bool_]:
    """Which images go."""
    gone: NDArray[np.bool_] = _keepers(embeddings, threshold) != STAYS
    return gone


def _keepers(embeddings: Floats, threshold: float) -> NDArray[np.int64]:
    """The keepers, all images compared, the first of them the best."""
    count = len(embeddings)
    with tempfile.TemporaryFile() as file:
        rows = np.memmap(file, dtype=np.float32, mode="w+", shape=embeddings.shape)
        rows[:] = embeddings
        hashes = np.arange(count, dtype=np.uint64)
        ranked = Rows(file=rows, images=np.arange(count), hashes=hashes, scored=count)
        return find_keepers(ranked, make_cells(ranked, 1, 1), threshold)
