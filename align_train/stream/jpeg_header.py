"""The header of a JPEG file: is it one that needs no turning, and how large is it?

Price: some microseconds; nothing is decoded.
"""

from __future__ import annotations

import simplejpeg


def sides_of_plain_jpeg(data: bytes) -> tuple[int, int] | None:
    """Returns height and width of a JPEG that the fast way can take; None for anything else.

    It must have one or three components, and no EXIF data that might turn it.
    """
    if data[:3] != b"\xff\xd8\xff" or _has_exif(data):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, LookupError):
        # Broken, or of a chroma sampling that simplejpeg does not know: Pillow will tell.
        return None
    return (height, width) if colours in ("YCbCr", "Gray", "RGB") else None


def _has_exif(data: bytes) -> bool:
    """Says whether a segment before the image data is EXIF's.

    A segment begins with two bytes of marker and two of length, which counts itself.
    """
    start = 2
    while data[start : start + 1] == b"\xff" and data[start + 1 : start + 2] not in (b"\xda", b""):
        if data[start + 1] == 0xE1 and data[start + 4 : start + 9] == b"Exif\0":
            return True
        # At least 2, or a broken length would hold this loop for ever.
        start += 2 + max(2, int.from_bytes(data[start + 2 : start + 4], "big"))
    return False
