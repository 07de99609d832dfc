"""What our decode() costs in quality: PSNR against a full decode and an antialiased resize in float, of the same view.

    python -m benchmarks.picture_quality [FOLDER OF PHOTOS]

51 real photos, as they are (about 640 x 480) and reduced as in `benchmarks.loader`, at several sizes: whole, and in random
crops of the paper's size (289 of 346), three a photo. The reference decodes the whole JPEG with Pillow and resizes its
three channels as float32, bilinear and antialiased, rounding nothing; so 58.9 dB is all that a picture of whole numbers can
reach. What is held against it is training's way, whose view is snapped to whole pixels of what is decoded (the reference
takes the snapped box: where a random crop lies is no loss). At a crop's edges the reference looks beyond the box, as a resize
before the crop does; training's way does not. *scale* is JPEG's own scale that training decodes at. (Evaluation takes no
shortcut: it is `AlignProcessor`'s, pixel for pixel, see tests/pretrained/test_hugging_face.py.) Takes a quarter of a minute.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from align_train.stream.decode import Pixels, View, Views, decode, snapped
from benchmarks.shared.photos import PHOTOS, encoded, photos

WHOLE = View(0.0, 0.0, 1.0, 1.0)


CROPS = 3  # random views of each photo


COMPARED: tuple[tuple[str | None, str, int], ...] = (
    (None, "whole", 289),
    (None, "crop", 289),
    ("long-500", "whole", 289),
    ("long-500", "crop", 289),
    ("short-384", "whole", 289),
    ("short-384", "crop", 289),
    ("long-384", "whole", 289),
    ("long-384", "crop", 289),
    (None, "crop", 224),
    (None, "crop", 128),
    (None, "crop", 64),
)


Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the whole picture


def training_box(view: View, size: int, width: int, height: int) -> tuple[int, Box]:
    """JPEG's scale (1, 2, 4, 8) and the box that the way of training shows: whole pixels of the scaled picture."""
    factor, (left, top, right, bottom) = snapped(view, size, height, width)
    return factor, (left * factor, top * factor, right * factor, bottom * factor)


def reference(image: Image.Image, box: Box, mirrored: bool, size: int) -> NDArray[np.float32]:
    """The box of a whole decoded picture, `[size, size, 3]` in float."""
    channels = [
        np.asarray(channel.convert("F").resize((size, size), Image.Resampling.BILINEAR, box=box))
        for channel in image.split()
    ]
    stacked = np.stack(channels, axis=-1)
    return stacked[:, ::-1] if mirrored else stacked


def psnr(pixels: Pixels, expected: NDArray[np.float32]) -> float:
    return float(10 * np.log10(255**2 / np.mean((pixels.astype(np.float64) - expected) ** 2)))


def views(kind: str, number: int) -> Iterator[View]:
    """The views of photo `number` that are compared."""
    if kind == "whole":
        yield WHOLE
        return
    random = Random(number)
    drawn = Views(image_size=289, resize_size=346)
    yield from (drawn.draw(random) for _ in range(CROPS))


def compare(pictures: list[bytes], kind: str, size: int) -> tuple[list[float], set[int]]:
    """PSNR of every view of every picture; JPEG's scales that were used."""
    training, scales = [], set()
    for number, data in enumerate(pictures):
        image = Image.open(io.BytesIO(data)).convert("RGB")
        for view in views(kind, number):
            scale, box = training_box(view, size, *image.size)
            scales.add(scale)
            training.append(
                psnr(decode(data, view, size), reference(image, box, view.mirrored, size))
            )
    return training, scales


def main(folder: Path) -> None:
    cases: dict[str | None, list[bytes]] = {}
    lines = []
    for case, kind, size in tqdm(COMPARED, unit="case", leave=False):
        if case not in cases:
            cases[case] = [encoded(path, case) for path in photos(folder)]
        training, scales = compare(cases[case], kind, size)
        used = ", ".join("1" if scale == 1 else f"1/{scale}" for scale in sorted(scales))
        figures = f"{min(training):>14.1f}, {np.mean(training):>5.1f}"
        lines.append(f"{case or 'as they are':<12} {kind:<6} {size:>4}  {used:<8}{figures}")
    print(
        f"PSNR in dB over {len(cases[None])} photos: against a full decode and an antialiased resize in float"
    )
    print(f"{'photos':<12} {'view':<6} {'size':>4}  {'scale':<8}{'min, mean':>21}")
    print("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PHOTOS)
