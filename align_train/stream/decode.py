"""The bytes of an image file to upright RGB, uint8, at the size that the tower takes.

A *view* (the part of the image that is shown, mirrored or not) is drawn first, in fractions of the
image. Then the image is decoded at the smallest of JPEG's own scales (1/2, 1/4, 1/8) that loses
nothing for it. The part that the view shows is resized, antialiased, straight from source
coordinates: pixels outside it are never resized. This equals the paper's "resize to 346 x 346, then
crop 289 x 289", without the 346 x 346 image.

An upright JPEG, nearly every image of the web, takes the fast way: libjpeg-turbo straight into an
array, the view snapped to whole pixels of what was decoded (as any crop does), and torch's
antialiased resize. All others take Pillow's way, and so does a JPEG that libjpeg-turbo refuses.
Evaluation resizes the whole image at its own size: `centre`. Which files are images, and which side
is up, is decided for all in `upright.py`.

A tower that begins with weights of its own may expect another interpolation, and another rule of
evaluation: `Views` has both. The crops of training are the paper's for all towers.

Price, 500 x 375 -> 289 on one core: 0.8 ms the fast way, 1.4 ms Pillow's.

Randomness comes from a number that the caller gives (seed, epoch, pair), never from the worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from align_train.stream.bad_image import check_sides
from align_train.stream.plain_jpeg import decode_plain_jpeg, sides_of_plain_jpeg
from align_train.stream.upright import upright, upright_by_pillow, upright_rgb

Pixels = NDArray[np.uint8]

Interpolation = Literal["bilinear", "bicubic"]
Resize = Literal["squash", "timm", "hugging_face"]

_BY_PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# The sides of an image that is evaluated whole. Of a longer one only the middle is looked at: at
# its own aspect a line of 1 x 60,000 pixels would become 9 GB.
_LARGEST_ASPECT = 100

# A scaled decode has at least so many times the pixels (a side) that are needed. Measured on real
# photos (`benchmarks/picture_quality`): at least 41 dB.
_HEADROOM = 1.6


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
        self,
        *,
        image_size: int,
        resize_size: int,
        flip: bool = True,
        least_scale: float = 1.0,
        resize: Resize | None = None,
        interpolation: Interpolation | None = None,
    ) -> None:
        """Checks the sizes.

        Args:
            image_size: Side, in pixels, of the square that the tower takes.
            resize_size: Side of the square to which the whole image is squashed before the crop
                (paper: 289 of 346); or what `resize` makes of it.
            flip: Mirror half of the images.
            least_scale: 1: the paper's fixed crop. Below: the crop's area is drawn from
                [least_scale, 1] x the image's, its aspect ratio from 3/4 to 4/3.
            resize: How images are resized for evaluation. squash, or None: to a square, as ALIGN.
                timm: the shorter side to `resize_size`, as timm does; hugging_face: the same, but
                an odd pixel is cut from the other side, as Hugging Face's CLIP does.
            interpolation: None: bilinear.

        Raises:
            ValueError: A size or a share is out of range, or a name is unknown.
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
        if resize not in (None, *get_args(Resize)):
            raise ValueError(f"resize={resize}: expected squash, timm or hugging_face")
        if interpolation not in (None, *_BY_PILLOW):
            raise ValueError(f"interpolation={interpolation}: expected bilinear or bicubic")

        self.image_size = image_size
        self.resize_size = resize_size
        self.crop = image_size / resize_size
        self.flip = flip
        self.least_scale = least_scale
        self.resize: Resize = resize or "squash"
        self.interpolation: Interpolation = interpolation or "bilinear"

    def draw(self, random: Random) -> View:
        """Draws a view to train on."""
        width = height = self.crop
        if self.least_scale < 1:
            # The area is drawn evenly; a side is its root.
            side = random.uniform(self.least_scale, 1) ** 0.5
            # The roots: width is multiplied by it and height divided, so the ratio of both is its
            # square.
            stretch = random.uniform(0.75**0.5, (4 / 3) ** 0.5)
            width = min(1.0, side * stretch)
            height = min(1.0, side / stretch)

        left = random.uniform(0, 1 - width)
        top = random.uniform(0, 1 - height)
        # Without flip nothing is drawn for it: the numbers after it depend on that.
        mirrored = self.flip and random.random() < 0.5
        return View(left, top, left + width, top + height, mirrored)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Returns the height and width to which an image is resized for evaluation."""
        size = self.resize_size
        if self.resize == "squash":
            return size, size
        # Cut off and not rounded: so do both libraries.
        if height < width:
            return size, int(size * width / height)
        return int(size * height / width), size

    def first(self, side: int) -> int:
        """Returns the first row or column of the central crop, of so many."""
        margin = side - self.image_size
        # torchvision, and with it timm, rounds the half to an even number.
        return round(margin / 2) if self.resize == "timm" else margin // 2


def decode(
    data: bytes, view: View, size: int, *, interpolation: Interpolation = "bilinear"
) -> Pixels:
    """Decodes a view of an image file.

    Args:
        data: The file's bytes, of a kind in `image_kind.KINDS`.
        view: The part that is shown.
        size: Side, in pixels, of the result.
        interpolation: How pixels are resized.

    Returns:
        `[size, size, 3]`.

    Raises:
        BadImage: The bytes are no whole image; the text is the reason.
    """
    sides = sides_of_plain_jpeg(data)
    if sides is not None:
        height, width = sides
        check_sides(width, height)
        factor, corners = snapped(view, size, height, width)
        pixels = decode_plain_jpeg(data, sides, factor)
        if pixels is not None:
            return _resized(pixels, corners, size, interpolation, mirrored=view.mirrored)
    return _decode_by_pillow(data, view, size, interpolation)


def decode_centre(data: bytes, views: Views) -> Pixels:
    """Decodes an image file as it is evaluated: see `centre`. Errors are those of `decode`."""
    return centre(upright(data), views)


def centre(image: Image.Image, views: Views) -> Pixels:
    """Returns the view of an image that is evaluated.

    The image is resized whole, then cropped: step by step what Hugging Face's `AlignProcessor`
    does, or timm, or Hugging Face's CLIP, and the same pixels.

    Args:
        image: Of any mode and orientation.
        views: The sizes.

    Returns:
        `[image_size, image_size, 3]`.

    Raises:
        BadImage: The image cannot be read, or its pixels are no colours.
    """
    array = np.array(upright_rgb(image))
    if views.resize != "squash":
        array = _without_far_ends(array)
    height, width = views.resized(*array.shape[:2])

    top = views.first(height)
    left = views.first(width)
    rows = slice(top, top + views.image_size)
    columns = slice(left, left + views.image_size)
    if views.resize == "timm":
        # timm resizes with Pillow, from which torch's bicubic differs by two levels.
        resample = _BY_PILLOW[views.interpolation]
        resized = np.array(Image.fromarray(array).resize((width, height), resample))
        return np.ascontiguousarray(resized[rows, columns])

    # Not contiguous: the same pixels in half the time, without a copy of the image.
    whole = torch.from_numpy(array).permute(2, 0, 1)[None]
    squashed = torch.nn.functional.interpolate(
        whole, size=(height, width), mode=views.interpolation, antialias=True
    )
    return squashed[0, :, rows, columns].permute(1, 2, 0).contiguous().numpy()


def _without_far_ends(pixels: Pixels) -> Pixels:
    """The middle of an image that is many times as long as wide; others as they are."""
    most = _LARGEST_ASPECT * min(pixels.shape[:2])
    top, left = (max(0, side - most) // 2 for side in pixels.shape[:2])
    return pixels[top : top + most, left : left + most]


def _resized(
    pixels: Pixels,
    corners: tuple[int, int, int, int],
    size: int,
    interpolation: Interpolation,
    *,
    mirrored: bool,
) -> Pixels:
    left, top, right, bottom = corners
    shown = torch.from_numpy(pixels[top:bottom, left:right]).permute(2, 0, 1)[None]
    # In this layout torch resizes three bytes at a time: three times as fast, the crop's copy
    # included.
    shown = shown.contiguous(memory_format=torch.channels_last)
    resized = torch.nn.functional.interpolate(
        shown, size=(size, size), mode=interpolation, antialias=True
    )
    if mirrored:
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
    # At least one pixel, and none beyond the decoded image, whatever rounding does.
    extent = min(max(1, round((high - low) * side / factor)), decoded)
    first = min(round(low * side / factor), decoded - extent)
    return first, first + extent


def _decode_by_pillow(data: bytes, view: View, size: int, interpolation: Interpolation) -> Pixels:
    shown = min(view.right - view.left, view.bottom - view.top)
    needed = int(np.ceil(_HEADROOM * size / shown))
    image, (left, top, right, bottom) = upright_by_pillow(data, needed=needed)

    width = right - left
    height = bottom - top
    box = (
        left + view.left * width,
        top + view.top * height,
        left + view.right * width,
        top + view.bottom * height,
    )
    resized = image.resize((size, size), _BY_PILLOW[interpolation], box=box)
    pixels: Pixels = np.asarray(resized)
    return pixels[:, ::-1] if view.mirrored else pixels
