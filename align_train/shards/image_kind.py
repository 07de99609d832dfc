"""The kind of an image file, by its first bytes. The ending of its name may say anything.

Known are the kinds that training decodes; `stream/upright.py` gives their names to Pillow, which
then tries no other. Left out are kinds that run a program (EPS), and those without bytes of their
own at the beginning (TGA, PCD), for which any file could be taken.
"""

from __future__ import annotations

from pathlib import Path, PurePath

HEAD = 32  # bytes that `image_kind` wants

# Pillow's names.
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")

# Names that promise an image. A file with such a name and other content is a bad image, not no
# image: it is counted and named.
_JPEG = ("jpg", "jpeg", "jpe", "jfif")
_NETPBM = ("ppm", "pgm", "pbm")
_OTHERS = ("png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "ico")
ENDINGS = frozenset((*_JPEG, *_NETPBM, *_OTHERS))

_BEGINNINGS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0\x08\0\0\0", "TIFF"),  # of more than 4 GB
    (b"MM\0+\0\x08\0\0", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
)

_AVIF_BRANDS = (b"avif", b"avis")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # bytes of the header that follows the first one
_LONGEST_ICON = 256  # images in one file; four bytes of zeros and ones begin other files too


def image_kind(head: bytes) -> str | None:
    """Names the kind of an image.

    Args:
        head: The first 32 bytes of the file, or all of a shorter one.

    Returns:
        One of `KINDS`; None if this is no image of a known kind.
    """
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind

    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp" and head[8:12] in _AVIF_BRANDS:
        return "AVIF"
    # A text may begin with BM, P6 or the like, so that more than that is asked for.
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b"\n\r\t " and _counts(head):
        return "PPM"
    if head[:4] == b"\0\0\1\0" and 0 < int.from_bytes(head[4:6], "little") <= _LONGEST_ICON:
        return "ICO"
    return None


def _counts(head: bytes) -> bool:
    """Whether a number or a comment follows the first bytes, as in every file of Netpbm's."""
    words = head[2:].split()
    return bool(words) and (words[0].isdigit() or words[0].startswith(b"#"))


def is_image(path: Path) -> bool:
    """Whether a file is an image, by its content, or claims to be one, by its name.

    Raises:
        OSError: The file cannot be read.
    """
    if promises_image(path):
        return True
    # Unbuffered: 32 bytes are wanted, and Python would read thousands.
    with path.open("rb", buffering=0) as file:
        return image_kind(file.read(HEAD)) is not None


def promises_image(path: PurePath) -> bool:
    """Whether a name ends as those of images do."""
    return path.suffix.lower().lstrip(".") in ENDINGS
