"""An image, a file or an open one, to upright RGB: the only way, behind the only guard.

Training, evaluation, embedding, search, packing, hashing and `align_train.load` take images through
here. So all of them agree which files are images, and which side is up.

Metadata that cannot be read are no fault of the image: it is kept, without an orientation.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from align_train.shards.image_kind import HEAD, KINDS, image_kind
from align_train.stream.bad_image import BadImage, check_sides, guarded
from align_train.stream.bare_image import without_metadata
from align_train.stream.plain_jpeg import decode_plain_jpeg, sides_of_plain_jpeg

_ORIENTATION = 0x0112  # EXIF's tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXCHANGES = (5, 6, 7, 8)  # width and height
# Where a file's last column or row comes to be the first one, from left to right and downwards.
_BACKWARDS_ACROSS = (2, 3, 6, 7)
_BACKWARDS_DOWN = (3, 4, 7, 8)

# Where Pillow looks for an orientation.
_WITH_ORIENTATION = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")

_SCALES = (8, 4, 2)  # by which a JPEG's sides can be divided while it is decoded

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""

Read = TypeVar("Read")


def upright(data: bytes, *, needed: int = 0, most: int | None = None) -> Image.Image:
    """Decodes an image file.

    Args:
        data: The file's bytes, of a kind in `image_kind.KINDS`.
        needed: A JPEG may be scaled down to sides of so many pixels; 0: never.
        most: Pixels that the file may claim; None: as in training.

    Returns:
        Upright RGB, transparency on white.

    Raises:
        BadImage: The bytes are no whole image.
    """
    sides = sides_of_plain_jpeg(data)
    if sides is not None:
        height, width = sides
        check_sides(width, height, most)
        shorter = min(sides)
        fits = (scale for scale in _SCALES if needed and shorter // scale >= needed)
        pixels = decode_plain_jpeg(data, sides, next(fits, 1))
        if pixels is not None:
            return Image.fromarray(pixels)
    return upright_by_pillow(data, needed=needed, most=most)[0]


def upright_by_pillow(
    data: bytes, *, needed: int = 0, most: int | None = None
) -> tuple[Image.Image, Box]:
    """As `upright`, for a caller that has tried a plain JPEG itself.

    Args:
        data: As there.
        needed: As there.
        most: As there.

    Returns:
        The image, and the part of it that the file's pixels cover. The last column of a scaled one
        may stand for a fraction of a pixel.

    Raises:
        BadImage: As there.
    """
    return _again_without_metadata(data, lambda content: _decode(content, needed, most))


def check_header(data: bytes) -> None:
    """Refuses an image file by its header alone, which costs a tenth of a millisecond.

    Args:
        data: The file's bytes.

    Raises:
        BadImage: The file is no image of a known kind, or claims too many pixels.
    """
    sides = sides_of_plain_jpeg(data)
    if sides is None:
        _again_without_metadata(data, _open)
    else:
        check_sides(sides[1], sides[0])


def upright_rgb(image: Image.Image) -> Image.Image:
    """Turns an open image of any mode and orientation into upright RGB, transparency on white.

    Args:
        image: Its file may not have been read yet.

    Raises:
        BadImage: It cannot be read, or its pixels are no colours.
    """
    check_sides(*image.size)
    with guarded():
        image.load()
        return _rgb(_turned(image, _orientation(image)))


def _again_without_metadata(data: bytes, read: Callable[[bytes], Read]) -> Read:
    try:
        return read(data)
    except BadImage:
        bare = without_metadata(data)
        if bare is None:
            raise
        try:
            return read(bare)
        except BadImage:
            pass
        # The reason is that of the file as it is.
        raise


def _decode(data: bytes, needed: int, most: int | None) -> tuple[Image.Image, Box]:
    image = _open(data, most)
    with guarded():
        drafted = None
        if needed and image.mode in ("RGB", "L"):
            drafted = image.draft(image.mode, (needed, needed))

        # Not before: Pillow finds some orientations behind the pixels, and turns TIFFs by itself.
        image.load()
        # An icon may hold another image than its header says.
        check_sides(*image.size, most)
        orientation = _orientation(image)
        rgb = _rgb(_turned(image, orientation))

    if drafted is None:
        return rgb, (0, 0, rgb.width, rgb.height)
    _, (_, _, width, height) = drafted
    if orientation in _EXCHANGES:
        width, height = height, width
    left = rgb.width - width if orientation in _BACKWARDS_ACROSS else 0
    top = rgb.height - height if orientation in _BACKWARDS_DOWN else 0
    return rgb, (left, top, left + width, top + height)


def _open(data: bytes, most: int | None = None) -> Image.Image:
    """Opens an image file, which reads its header."""
    with guarded():
        try:
            image = Image.open(io.BytesIO(data), formats=KINDS)
        except UnidentifiedImageError:
            kind = image_kind(data[:HEAD])
            if kind is None:
                raise BadImage("not an image of a known kind") from None
            raise BadImage(f"broken image: the header of this {kind} cannot be read") from None
        except Image.DecompressionBombError:
            raise BadImage("image of so many pixels is taken for a decompression bomb") from None
    check_sides(*image.size, most)

    # Of another type it would fail Pillow while it loads a TIFF.
    if not isinstance(image.info.get("xmp", b""), bytes):
        del image.info["xmp"]
    return image


def _orientation(image: Image.Image) -> int:
    """As EXIF has it, or XMP: 2 to 8; 1 if nothing turns the image."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:
        # EXIF that is no TIFF, numbers that are no numbers: the pixels are sound all the same.
        return 1
    # Anything may stand there, even bytes or fractions.
    return orientation if isinstance(orientation, int) and orientation in _TURNS else 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    method = _TURNS.get(orientation)
    if method is None:
        return image

    upright_image = image.transpose(method)
    # Or whoever gets this image would turn it again.
    for name in _WITH_ORIENTATION:
        upright_image.info.pop(name, None)
    return upright_image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        # Nobody knows their range.
        raise BadImage("its pixels are floats, not colours")
    if image.mode.startswith("I"):
        # 16 bits: convert() would clip at 255 instead of scaling.
        wide = np.asarray(image).clip(0, 65535).astype(np.uint32)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))

    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        # Not `alpha_composite`, which takes twice the memory.
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")
