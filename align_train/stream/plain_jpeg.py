"""Plain JPEGs: upright ones of one or three components, nearly every image of the web.

libjpeg-turbo decodes them straight into an array, at a scale if one will do. It is stricter than
Pillow over the same library: it refuses a file with stray bytes, which every viewer shows. So its
refusal says nothing yet; Pillow decides (`upright.py`). Where both decode, the pixels are the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import simplejpeg
from numpy.typing import NDArray

SCAN = 0xDA  # the marker after which image data begin
_APP1 = 0xE1

# Markers without a length, which none should meet before the image data.
_BARE = (*range(0xD0, 0xDA), 0xFF)
_FIRST = 0xC0  # below are reserved ones

# In XMP, as Pillow looks for it.
_TURNED = re.compile(rb'tiff:Orientation(?:="|>)[2-8]')


def sides_of_plain_jpeg(data: bytes) -> tuple[int, int] | None:
    """Returns height and width of a plain JPEG; None for any other file.

    Price: some microseconds; nothing is decoded.

    Args:
        data: The file's bytes.
    """
    if data[:3] != b"\xff\xd8\xff" or not _is_upright(data):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except Exception:
        # Broken, or of a chroma sampling that simplejpeg does not know: Pillow will tell.
        return None
    return (height, width) if colours in ("YCbCr", "Gray", "RGB") else None


def decode_plain_jpeg(
    data: bytes, sides: tuple[int, int], factor: int = 1
) -> NDArray[np.uint8] | None:
    """Decodes a plain JPEG.

    Args:
        data: The file's bytes.
        sides: Its height and width.
        factor: Shrinks the sides, rounded up: 1, 2, 4 or 8.

    Returns:
        `[height, width, 3]`; None if libjpeg-turbo refuses it.
    """
    height, width = sides
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data,
            "RGB",
            min_height=-(-height // factor),
            min_width=-(-width // factor),
            min_factor=factor,
        )
    except Exception:
        return None
    return pixels


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Walks over the header of a JPEG.

    A segment begins with two bytes of marker and two of length, which counts itself.

    Args:
        data: The file's bytes.

    Yields:
        Marker, start and end of each segment. The last is the scan, which reaches to the file's
        end; without it the header keeps to the rules less strictly than this walk.
    """
    start = 2
    while data[start : start + 1] == b"\xff":
        marker = int.from_bytes(data[start + 1 : start + 2], "big")
        if marker == SCAN:
            yield marker, start, len(data)
            return

        length = int.from_bytes(data[start + 2 : start + 4], "big")
        if marker < _FIRST or marker in _BARE or length < 2:
            return
        end = start + 2 + length
        yield marker, start, end
        start = end


def _is_upright(data: bytes) -> bool:
    """Whether nothing before the image data can turn the image: no EXIF, no word of it in XMP."""
    for marker, start, end in segments(data):
        if marker == SCAN:
            return True
        if marker == _APP1:
            content = data[start + 4 : end]
            if content.startswith(b"Exif\0") or _TURNED.search(content):
                return False
    # Pillow may find an orientation all the same.
    return False
