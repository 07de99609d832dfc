"""Bytes of a picture -> upright RGB, uint8, at the size that the tower takes.

A *view* (which part of the picture, mirrored or not) is drawn first, in fractions of the picture. Then the picture is
decoded at the smallest of JPEG's own scales (1/2, 1/4, 1/8) that loses nothing for it, and the part that the view
shows is resized, antialiased, straight from source coordinates: pixels that the crop drops are never resized. This equals
the paper's "resize to 346 × 346, then crop 289 × 289" without the 346 × 346 picture.

An upright JPEG, nearly every picture of the web, takes the fast way: libjpeg-turbo straight into an array, the view snapped
to whole pixels of what was decoded (as any crop does), and torch's antialiased resize. All others take Pillow's way. Price,
500 × 375 -> 289 on one core: 0.8 ms against 1.4 ms. Evaluation takes no shortcut at all: `centre`.

Randomness comes from a number given by the caller (seed, epoch, pair), never from the worker.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from random import Random

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8]

_ORIENTATION = 0x0112  # EXIF's; 5 and above exchange width and height
_HEADROOM = 1.6  # a scaled decode has at least so many times the pixels (a side) that are needed: >= 41 dB on real photos
# What Pillow raises for broken files: formats are parsed by plain Python in places.
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
MAX_PIXELS = (
    100_000_000  # a picture that claims more is taken for a decompression bomb and never decoded
)


@dataclass(frozen=True)
class View:
    """The part of a picture that is shown: left, top, right, bottom as fractions of its sides; mirrored or not."""

    left: float
    top: float
    right: float
    bottom: float
    mirrored: bool = False


class Views:
    """Which view of a picture is trained on, and which is evaluated.

    image_size: side of the square that the tower takes; resize_size: side of the square that the whole picture is squashed
    to before the crop (paper: 289 of 346). flip: mirror half of the pictures. least_scale: when below 1, the crop's area is
    drawn from [least_scale, 1] × the picture's, with an aspect ratio from 3/4 to 4/3, instead of the paper's fixed crop.
    """

    def __init__(
        self, *, image_size: int, resize_size: int, flip: bool = True, least_scale: float = 1.0
    ) -> None:
        if not 1 <= image_size <= resize_size:
            raise ValueError(
                f"image_size={image_size}, resize_size={resize_size}: expected 1 <= image_size <= resize_size"
            )
        if not 0 < least_scale <= 1:
            raise ValueError(
                f"least_scale={least_scale}: expected a share of the picture's area, above 0, at most 1"
            )
        self.image_size, self.resize_size = image_size, resize_size
        self.crop = image_size / resize_size
        self.flip = flip
        self.least_scale = least_scale

    def draw(self, random: Random) -> View:
        width = height = self.crop
        if self.least_scale < 1:
            side = random.uniform(self.least_scale, 1) ** 0.5
            stretch = random.uniform(0.75**0.5, (4 / 3) ** 0.5)
            width, height = min(1.0, side * stretch), min(1.0, side / stretch)
        left, top = random.uniform(0, 1 - width), random.uniform(0, 1 - height)
        return View(left, top, left + width, top + height, self.flip and random.random() < 0.5)


def decode(data: bytes, view: View, size: int) -> Pixels:
    """The view of an encoded picture as `[size, size, 3]`; ValueError with the reason where the bytes are no whole picture."""
    sides = _sides_of_plain_jpeg(data)
    return _decode_jpeg(data, view, size, *sides) if sides else _decode_any(data, view, size)


def decode_centre(data: bytes, views: Views) -> Pixels:
    """An encoded picture as it is evaluated: see `centre`; errors as `decode`'s."""
    image, _ = _upright(data)
    return centre(image, views)


def centre(picture: Image.Image, views: Views) -> Pixels:
    """A picture of any mode and orientation as it is evaluated, `[image_size, image_size, 3]`.

    Decoded and squashed whole, then cropped: step by step what Hugging Face's `AlignProcessor` does, and the same pixels.
    """
    whole = torch.from_numpy(np.array(_upright_rgb(picture))).permute(2, 0, 1)[None].contiguous()
    sides = (views.resize_size, views.resize_size)
    squashed = torch.nn.functional.interpolate(whole, size=sides, mode="bilinear", antialias=True)
    first = (views.resize_size - views.image_size) // 2
    last = first + views.image_size
    return squashed[0, :, first:last, first:last].permute(1, 2, 0).contiguous().numpy()


def _sides_of_plain_jpeg(data: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG of three or one components that needs no turning; None for anything else."""
    if data[:3] != b"\xff\xd8\xff" or _has_exif(data):
        return None  # with EXIF it may lie on its side: Pillow reads how
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, LookupError):  # or it has a chroma sampling that simplejpeg does not know
        return None  # Pillow will say what is wrong with it
    return (height, width) if colours in ("YCbCr", "Gray", "RGB") else None


def _has_exif(data: bytes) -> bool:
    """Whether one of the segments before the picture itself is EXIF's: two bytes of marker, two of length, and so on."""
    place = 2
    while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] not in (b"\xda", b""):
        if data[place + 1] == 0xE1 and data[place + 4 : place + 9] == b"Exif\0":
            return True
        place += 2 + max(2, int.from_bytes(data[place + 2 : place + 4], "big"))
    return False


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
        raise ValueError(f"broken picture: {error}") from None
    shown = torch.from_numpy(pixels[top:bottom, left:right]).permute(2, 0, 1)[None]
    # In this layout torch resizes three bytes at a time: three times as fast, the copy of the crop included.
    shown = shown.contiguous(memory_format=torch.channels_last)
    resized = torch.nn.functional.interpolate(
        shown, size=(size, size), mode="bilinear", antialias=True
    )
    resized = resized.flip(3) if view.mirrored else resized
    return resized[0].permute(1, 2, 0).numpy()


def snapped(
    view: View, size: int, height: int, width: int
) -> tuple[int, tuple[int, int, int, int]]:
    """How much smaller a JPEG is decoded (1, 2, 4 or 8), and the view in whole pixels of that: left, top, right, bottom.

    The smallest scale that still has `_HEADROOM` times the pixels that are needed. A last row or column that stands for a
    fraction of a pixel is left out: stretched to a whole one it would shift all others (36 dB instead of 44).
    """
    shown = min((view.right - view.left) * width, (view.bottom - view.top) * height)
    factor = next((scale for scale in (8, 4, 2) if shown / scale >= _HEADROOM * size), 1)
    box = []
    for low, high, side in ((view.left, view.right, width), (view.top, view.bottom, height)):
        decoded = max(1, side // factor)
        extent = min(max(1, round((high - low) * side / factor)), decoded)
        first = min(round(low * side / factor), decoded - extent)
        box.append((first, first + extent))
    return factor, (box[0][0], box[1][0], box[0][1], box[1][1])


def _refuse_bombs(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"picture of {width} x {height} pixels is taken for a decompression bomb")


def _decode_any(data: bytes, view: View, size: int) -> Pixels:
    shown = min(view.right - view.left, view.bottom - view.top)
    image, (width, height) = _upright(data, needed=int(np.ceil(_HEADROOM * size / shown)))
    box = (view.left * width, view.top * height, view.right * width, view.bottom * height)
    pixels: Pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return pixels[:, ::-1] if view.mirrored else pixels


def _upright(data: bytes, needed: int | None = None) -> tuple[Image.Image, tuple[float, float]]:
    """A picture decoded by Pillow, and how far it goes in its own pixels. needed: a JPEG may be scaled down to this side."""
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
        _refuse_bombs(image.width, image.height)
        # A scaled picture's last column may stand for a fraction of a pixel: the extent says how far the picture really goes.
        drafted = (
            image.draft(image.mode, (needed, needed))
            if needed and image.mode in ("RGB", "L")
            else None
        )
        width, height = drafted[1][2:] if drafted else image.size
        turned = image.getexif().get(_ORIENTATION) in (
            5,
            6,
            7,
            8,
        )  # anything may stand there, even bytes
        return _upright_rgb(image), (height, width) if turned else (width, height)
    except UnidentifiedImageError:
        raise ValueError("not a JPEG, PNG or WebP picture") from None
    except _BROKEN as error:
        raise ValueError(f"broken picture: {error}") from None


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Any mode and orientation -> RGB the right way up, transparency on white."""
    if image.mode.startswith("I"):  # 16 bits: convert() would clip at 255 instead of scaling
        wide = np.asarray(image).astype(np.float64)
        image = Image.fromarray((wide / 257).clip(0, 255).round().astype(np.uint8))
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
