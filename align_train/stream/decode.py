"""The bytes of an image file to upright RGB, uint8, at the size that the tower takes.

A *view* (the part of the image that is shown, mirrored or not) is drawn first, in fractions of the
image. Then the image is decoded at the smallest of JPEG's own scales (1/2, 1/4, 1/8) that loses
nothing for it. The part that the view shows is resized, antialiased, straight from source
coordinates: pixels outside it are never resized. This equals the paper's "resize to 346 x 346, then
crop 289 x 289", without the 346 x 346 image.

An upright JPEG, nearly every image of the web, takes the fast way: libjpeg-turbo straight into an
array, the view snapped to whole pixels of what was decoded (as any crop does), and torch's
antialiased resize. All others take Pillow's way. Evaluation takes no shortcut at all: `centre`.

Price, 500 x 375 -> 289 on one core: 0.8 ms the fast way, 1.4 ms Pillow's.

Randomness comes from a number that the caller gives (seed, epoch, pair), never from the worker.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass
from random import Random

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from align_train.shards.image_kind import KINDS
from align_train.stream.jpeg_header import sides_of_plain_jpeg

Pixels = NDArray[np.uint8]

# An image that claims more is taken for a decompression bomb and never decoded.
MAX_PIXELS = 100_000_000

# A scaled decode has at least so many times the pixels (a side) that are needed. Measured on real
# photos (`benchmarks/picture_quality`): at least 41 dB.
_HEADROOM = 1.6

_ORIENTATION = 0x0112  # EXIF's tag
_TURNED = (5, 6, 7, 8)  # its values that exchange width and height

# What Pillow raises for broken files: it parses formats by plain Python in places.
_BROKEN = (
    OSError,
    SyntaxError,
    struct.error,
    Image.DecompressionBombError,
    ArithmeticError,
    LookupError,
    TypeError,
    EOFError,
)


@dataclass(frozen=True)
class View:
    """The part of an image that is shown: sides as fractions of the image's, mirrored or not."""

    left: float
    top: float
    right: float
    bottom: float
    mirrored: bool = False


class Views:
    """The views of an image: those that are trained on, and the one that is evaluated."""

    def __init__(
        self, *, image_size: int, resize_size: int, flip: bool = True, least_scale: float = 1.0
    ) -> None:
        """Checks the sizes.

        Args:
            image_size: Side, in pixels, of the square that the tower takes.
            resize_size: Side of the square to which the whole image is squashed before the crop
                (paper: 289 of 346).
            flip: Mirror half of the images.
            least_scale: 1: the paper's fixed crop. Below: the crop's area is drawn from
                [least_scale, 1] x the image's, its aspect ratio from 3/4 to 4/3.

        Raises:
            ValueError: A size or a share is out of range.
        """
        if not 1 <= image_size <= resize_size:
            raise ValueError(
                f"image_size={image_size}, resize_size={resize_size}: expected 1 <= image_size <= "
                f"resize_size"
            )
        if not 0 < least_scale <= 1:
            raise ValueError(
                f"least_scale={least_scale}: expected a share of the image's area, above 0, at "
                f"most 1"
            )
        self.image_size = image_size
        self.resize_size = resize_size
        self.crop = image_size / resize_size
        self.flip = flip
        self.least_scale = least_scale

    def draw(self, random: Random) -> View:
        """Draws a view to train on."""
        width = height = self.crop
        if self.least_scale < 1:
            # The area is drawn evenly; a side is its root.
            side = random.uniform(self.least_scale, 1) ** 0.5
            stretch = random.uniform(0.75**0.5, (4 / 3) ** 0.5)
            width = min(1.0, side * stretch)
            height = min(1.0, side / stretch)

        left = random.uniform(0, 1 - width)
        top = random.uniform(0, 1 - height)
        # Without flip nothing is drawn for it: the numbers after it depend on that.
        mirrored = self.flip and random.random() < 0.5
        return View(left, top, left + width, top + height, mirrored)


def decode(data: bytes, view: View, size: int) -> Pixels:
    """Decodes a view of an image file.

    Args:
        data: The file's bytes, of a kind in `image_kind.KINDS`.
        view: The part that is shown.
        size: Side, in pixels, of the result.

    Returns:
        `[size, size, 3]`.

    Raises:
        ValueError: The bytes are no whole image; the text is the reason.
    """
    sides = sides_of_plain_jpeg(data)
    if sides is None:
        return _decode_by_pillow(data, view, size)
    height, width = sides
    return _decode_jpeg(data, view, size, height, width)


def decode_centre(data: bytes, views: Views) -> Pixels:
    """Decodes an image file as it is evaluated: see `centre`. Errors are those of `decode`."""
    image, _ = _decode_upright(data)
    return centre(image, views)


def decode_whole(data: bytes) -> Image.Image:
    """Decodes an image file to upright RGB at its own size. Errors are those of `decode`."""
    return _decode_upright(data)[0]


def check_header(data: bytes) -> None:
    """Refuses an image file by its header alone, which costs a tenth of a millisecond.

    Raises:
        ValueError: The file is no image of a known kind, or claims too many pixels.
    """
    _open(data)


def centre(image: Image.Image, views: Views) -> Pixels:
    """Returns the view of an image that is evaluated.

    The image is squashed whole, then cropped: step by step what Hugging Face's `AlignProcessor`
    does, and the same pixels.

    Args:
        image: Of any mode and orientation.
        views: The sizes.

    Returns:
        `[image_size, image_size, 3]`.
    """
    whole = torch.from_numpy(np.array(_upright_rgb(image))).permute(2, 0, 1)[None].contiguous()
    sides = (views.resize_size, views.resize_size)
    squashed = torch.nn.functional.interpolate(whole, size=sides, mode="bilinear", antialias=True)
    first = (views.resize_size - views.image_size) // 2
    last = first + views.image_size
    return squashed[0, :, first:last, first:last].permute(1, 2, 0).contiguous().numpy()


def _decode_jpeg(data: bytes, view: View, size: int, height: int, width: int) -> Pixels:
    _refuse_bombs(width, height)
    factor, (left, top, right, bottom) = snapped(view, size, height, width)
    try:
        pixels = simplejpeg.decode_jpeg(
            data,
            "RGB",
            min_height=-(-height // factor),
            min_width=-(-width // factor),
            min_factor=factor,
        )
    except ValueError as error:
        raise ValueError(f"broken image: {error}") from None

    shown = torch.from_numpy(pixels[top:bottom, left:right]).permute(2, 0, 1)[None]
    # In this layout torch resizes three bytes at a time: three times as fast, the crop's copy
    # included.
    shown = shown.contiguous(memory_format=torch.channels_last)
    resized = torch.nn.functional.interpolate(
        shown, size=(size, size), mode="bilinear", antialias=True
    )
    if view.mirrored:
        resized = resized.flip(3)
    return resized[0].permute(1, 2, 0).numpy()


def snapped(
    view: View, size: int, height: int, width: int
) -> tuple[int, tuple[int, int, int, int]]:
    """Chooses the scale at which a JPEG is decoded, and snaps the view to its whole pixels.

    The scale is the smallest that still has `_HEADROOM` times the pixels that are needed. A last
    row or column that stands for a fraction of a pixel is left out. Stretched to a whole pixel it
    would shift all others (36 dB instead of 44).

    Returns:
        The factor (1, 2, 4 or 8) by which the sides shrink; left, top, right and bottom in pixels.
    """
    shown = min((view.right - view.left) * width, (view.bottom - view.top) * height)
    factor = next((scale for scale in (8, 4, 2) if shown / scale >= _HEADROOM * size), 1)
    left, right = _snapped_side(view.left, view.right, width, factor)
    top, bottom = _snapped_side(view.top, view.bottom, height, factor)
    return factor, (left, top, right, bottom)


def _snapped_side(low: float, high: float, side: int, factor: int) -> tuple[int, int]:
    decoded = max(1, side // factor)
    extent = min(max(1, round((high - low) * side / factor)), decoded)
    first = min(round(low * side / factor), decoded - extent)
    return first, first + extent


def _refuse_bombs(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"image of {width} x {height} pixels is taken for a decompression bomb")


def _decode_by_pillow(data: bytes, view: View, size: int) -> Pixels:
    shown = min(view.right - view.left, view.bottom - view.top)
    needed = int(np.ceil(_HEADROOM * size / shown))
    image, (width, height) = _decode_upright(data, needed=needed)

    box = (view.left * width, view.top * height, view.right * width, view.bottom * height)
    pixels: Pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return pixels[:, ::-1] if view.mirrored else pixels


def _decode_upright(
    data: bytes, needed: int | None = None
) -> tuple[Image.Image, tuple[float, float]]:
    """Decodes an image file by Pillow.

    Args:
        data: The file's bytes.
        needed: A JPEG may be scaled down to sides of so many pixels; None: never.

    Returns:
        The image, and the width and height that it really covers. A scaled image's last column may
        stand for a fraction of a pixel.
    """
    try:
        image = _open(data)
        width: float = image.width
        height: float = image.height
        if needed and image.mode in ("RGB", "L"):
            drafted = image.draft(image.mode, (needed, needed))
            if drafted:
                _, (_, _, width, height) = drafted

        # Anything may stand in a broken file's EXIF, even bytes.
        if image.getexif().get(_ORIENTATION) in _TURNED:
            width, height = height, width
        return _upright_rgb(image), (width, height)
    except _BROKEN as error:
        raise ValueError(f"broken image: {error}") from None


def _open(data: bytes) -> Image.Image:
    """Opens an image file by Pillow, which reads its header. Errors are those of `decode`."""
    # Pillow warns of images of 89 to 179 million pixels; here the limit is our own.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(data), formats=KINDS)
        except UnidentifiedImageError:
            raise ValueError("not an image of a known kind") from None
        except Image.DecompressionBombError:
            raise ValueError("image of so many pixels is taken for a decompression bomb") from None
        except (*_BROKEN, ValueError) as error:
            raise ValueError(f"broken image: {error}") from None
    _refuse_bombs(image.width, image.height)
    return image


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Turns an image of any mode and orientation into upright RGB, transparency on white.

    Raises:
        ValueError: Its pixels are floats, whose range nobody knows.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floats, not colours")
    if image.mode.startswith("I"):
        # 16 bits: convert() would clip at 255 instead of scaling.
        wide = np.asarray(image).astype(np.float64)
        image = Image.fromarray((wide / 257).clip(0, 255).round().astype(np.uint8))

    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
