"""An image file without its metadata, for a second attempt at a file that Pillow refuses.

Pillow takes a colour profile, a comment or a resolution that is cut short for a fault of the whole
image. What says how pixels are to be seen stays: palette, transparency, the colours of a JPEG, and
the orientation.
"""

from __future__ import annotations

import zlib

from align_train.stream.plain_jpeg import segments

_PNG = b"\x89PNG\r\n\x1a\n"
_OF_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")

_ADOBE = 0xEE
# Bytes of a segment, its length included, from which libjpeg reads it: JFIF's and Adobe's.
_SHORTEST = {0xE0: 16, _ADOBE: 14}
# Applications' data (less EXIF and XMP, which Pillow stores unread), and comments.
_DROPPED = (*range(0xE2, _ADOBE), 0xEF, 0xFE)


def without_metadata(data: bytes) -> bytes | None:
    """Returns the file without what Pillow might stumble over.

    Args:
        data: The file's bytes.

    Returns:
        The bytes of a JPEG or PNG; None if nothing could be left out, or for any other kind.
    """
    bare = None
    if data.startswith(_PNG):
        bare = _bare_png(data)
    elif data.startswith(b"\xff\xd8\xff"):
        bare = _bare_jpeg(data)
    return None if bare == data else bare


def _bare_png(data: bytes) -> bytes:
    """A chunk has four bytes of length, four of its name, its content and four of a checksum."""
    kept = [_PNG]
    start = len(_PNG)
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        name = data[start + 4 : start + 8]
        if name in _OF_PIXELS or (name == b"eXIf" and _is_whole(data[start:end])):
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def _is_whole(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]).to_bytes(4, "big") == chunk[-4:]


def _bare_jpeg(data: bytes) -> bytes:
    kept = [data[:2]]
    end = 2
    for marker, start, end in segments(data):
        if marker not in _DROPPED and end - start - 2 >= _SHORTEST.get(marker, 0):
            kept.append(data[start:end])
    return b"".join([*kept, data[end:]])
