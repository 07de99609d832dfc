"""The loss of quality in our decode(): PSNR against a full decode and a resize in float.

    python -m benchmarks.picture_quality [FOLDER OF PHOTOS]

51 real photos are compared, as they are (about 640 x 480) and reduced as in `benchmarks.loader`, at
several sizes: whole, and in random crops of the paper's size (289 of 346), three a photo.

The reference shows the same view. It decodes the whole JPEG with Pillow and resizes its three
channels as float32, bilinear and antialiased, rounding nothing; so 58.9 dB is all that an image of
whole numbers can reach. It is compared with training's way, whose view is snapped to whole pixels
of the decoded image. The reference takes the snapped box: the place of a random crop is no loss. At
a crop's edges the reference looks beyond the box, as a resize before the crop does; training's way
does not. *scale* is JPEG's own scale that training decodes at.

Evaluation takes no shortcut: it is `AlignProcessor`'s, pixel for pixel, see
tests/pretrained/test_hugging_face.py.

Price: a quarter of a minute.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from align_train.stream.decode import Pixels, View, Views, decode, snapped
from benchmarks.shared.command_line import parser_of
from benchmarks.shared.photos import PHOTOS, jpeg_of, photos
from benchmarks.shared.sizes import IMAGE_SIZE, RESIZE_SIZE

WHOLE = View(0.0, 0.0, 1.0, 1.0)

CROPS = 3  # random views of each photo

# Case (None: photos as they are), view, and size in pixels.
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

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the whole image


def training_box(view: View, size: int, width: int, height: int) -> tuple[int, Box]:
    """Finds the box that training shows: whole pixels of the scaled image.

    Args:
        view: The view.
        size: Side, in pixels, of the result.
        width: The image's width in pixels.
        height: Its height.

    Returns:
        JPEG's scale (1, 2, 4, 8), and the box.
    """
    factor, (left, top, right, bottom) = snapped(view, size, height, width)
    return factor, (left * factor, top * factor, right * factor, bottom * factor)


def reference(image: Image.Image, box: Box, mirrored: bool, size: int) -> NDArray[np.float32]:
    """Resizes a box of a whole decoded image.

    Args:
        image: The image.
        box: The box.
        mirrored: Whether the result is mirrored.
        size: Side, in pixels, of the result.

    Returns:
        `[size, size, 3]` in float.
    """
    channels = []
    for channel in image.split():
        in_float = channel.convert("F")
        resized = in_float.resize((size, size), Image.Resampling.BILINEAR, box=box)
        channels.append(np.asarray(resized))

    stacked = np.stack(channels, axis=-1)
    return stacked[:, ::-1] if mirrored else stacked


def psnr(pixels: Pixels, expected: NDArray[np.float32]) -> float:
    """Computes the peak signal-to-noise ratio in dB."""
    error = np.mean((pixels.astype(np.float64) - expected) ** 2)
    return float(10 * np.log10(255**2 / error))


def views(kind: str, index: int) -> Iterator[View]:
    """Yields the views of a photo that are compared."""
    if kind == "whole":
        yield WHOLE
        return

    random = Random(index)
    drawn = Views(image_size=IMAGE_SIZE, resize_size=RESIZE_SIZE)
    for _ in range(CROPS):
        yield drawn.draw(random)


def compare(images: list[bytes], kind: str, size: int) -> tuple[list[float], set[int]]:
    """Compares every view of every image.

    Args:
        images: JPEGs.
        kind: `whole` or `crop`.
        size: Side, in pixels, of the result.

    Returns:
        The PSNR of every view, and JPEG's scales that were used.
    """
    training = []
    scales = set()
    for index, data in enumerate(images):
        image = Image.open(io.BytesIO(data)).convert("RGB")
        for view in views(kind, index):
            scale, box = training_box(view, size, *image.size)
            expected = reference(image, box, view.mirrored, size)
            training.append(psnr(decode(data, view, size), expected))
            scales.add(scale)
    return training, scales


def main() -> None:
    parser = parser_of("picture_quality", __doc__)
    parser.add_argument("photos", nargs="?", type=Path, default=PHOTOS, help="a folder of *.jpg")
    folder = parser.parse_args().photos

    paths = photos(folder)
    cases: dict[str | None, list[bytes]] = {}
    lines = []
    for case, kind, size in tqdm(COMPARED, unit="case", leave=False):
        if case not in cases:
            cases[case] = [jpeg_of(path, case) for path in paths]
        training, scales = compare(cases[case], kind, size)
        used = ", ".join("1" if scale == 1 else f"1/{scale}" for scale in sorted(scales))
        figures = f"{min(training):>14.1f}, {np.mean(training):>5.1f}"
        lines.append(f"{case or 'as they are':<12} {kind:<6} {size:>4}  {used:<8}{figures}")

    print(
        f"PSNR in dB over {len(paths)} photos: "
        f"against a full decode and an antialiased resize in float"
    )
    print(f"{'photos':<12} {'view':<6} {'size':>4}  {'scale':<8}{'min, mean':>21}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
