"""One image, a ramp that shows which side is up, as a file of every kind, sound or damaged."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, features

from tests.support.images import encoded

Pixels = NDArray[np.uint8]
Encoder = Callable[[Image.Image], bytes]

_LOW, _HIGH = 20, 235

ORIENTATION = 0x0112
_XMP = 700  # TIFF's number for it
_TEXT, _SHORT, _LONG, _UNDEFINED, _FLOAT = 2, 3, 4, 7, 11  # types of TIFF's values

_LYING = {  # how an upright image lies in a file of this orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def ramp(width: int, height: int) -> Image.Image:
    """Red grows to the right, green down; blue is in between."""
    across = np.linspace(_LOW, _HIGH, width)[None, :].repeat(height, 0)
    down = np.linspace(_LOW, _HIGH, height)[:, None].repeat(width, 1)
    pixels = np.stack([across, down, np.full_like(across, 128)], -1)
    return Image.fromarray(pixels.round().astype(np.uint8))


def lying(image: Image.Image, orientation: int) -> Image.Image:
    """The pixels that a file of some orientation must hold to show this image."""
    method = _LYING.get(orientation)
    return image if method is None else image.transpose(method)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags.tobytes()


def xmp(orientation: int) -> bytes:
    return f'<rdf tiff:Orientation="{orientation}"/>'.encode()


def _opaque(image: Image.Image) -> Image.Image:
    return image.convert("RGBA")


def _wide(image: Image.Image) -> Image.Image:
    grey = np.asarray(image.convert("L")).astype(np.uint16)
    return Image.fromarray(grey * 257)


def _palette(image: Image.Image) -> Image.Image:
    return image.convert("P", palette=Image.Palette.ADAPTIVE)


def _two(image: Image.Image) -> Image.Image:
    return image.convert("1", dither=Image.Dither.NONE)


JPEGS: dict[str, Encoder] = {
    "baseline": lambda image: encoded(image, "JPEG", quality=90),
    "progressive": lambda image: encoded(image, "JPEG", quality=90, progressive=True),
    "4:4:4": lambda image: encoded(image, "JPEG", quality=90, subsampling=0),
    "restarts": lambda image: encoded(image, "JPEG", quality=90, restart_marker_blocks=2),
    "grey JPEG": lambda image: encoded(image.convert("L"), "JPEG", quality=90),
    "CMYK": lambda image: encoded(image.convert("CMYK"), "JPEG", quality=90),
}

PNGS: dict[str, Encoder] = {
    "PNG": lambda image: encoded(image, "PNG"),
    "grey PNG": lambda image: encoded(image.convert("L"), "PNG"),
    "PNG, 1 bit": lambda image: encoded(_two(image), "PNG"),
    "PNG, 16 bits": lambda image: encoded(_wide(image), "PNG"),
    "PNG, palette": lambda image: encoded(_palette(image), "PNG"),
    "PNG, palette, clear": lambda image: encoded(_palette(image), "PNG", transparency=9),
    "PNG, alpha": lambda image: encoded(_opaque(image), "PNG"),
    "PNG, grey, alpha": lambda image: encoded(image.convert("LA"), "PNG"),
}

WEBPS: dict[str, Encoder] = {
    "WebP": lambda image: encoded(image, "WEBP", quality=90),
    "WebP, lossless": lambda image: encoded(image, "WEBP", lossless=True),
    "WebP, alpha": lambda image: encoded(_opaque(image), "WEBP", lossless=True, exact=True),
}

TIFFS: dict[str, Encoder] = {
    "TIFF": lambda image: encoded(image, "TIFF"),
    "TIFF, packed": lambda image: encoded(image, "TIFF", compression="tiff_lzw"),
    "TIFF, 16 bits": lambda image: encoded(_wide(image), "TIFF"),
    "TIFF, CMYK": lambda image: encoded(image.convert("CMYK"), "TIFF"),
}

OTHERS: dict[str, Encoder] = {
    "GIF": lambda image: encoded(_palette(image), "GIF"),
    "BMP": lambda image: encoded(image, "BMP"),
    "PPM": lambda image: encoded(image, "PPM"),
}
if features.check("avif"):
    OTHERS["AVIF"] = lambda image: encoded(image, "AVIF", quality=90)
if features.check_codec("jpg_2000"):
    OTHERS["JPEG 2000"] = lambda image: encoded(image, "JPEG2000")

KINDS = JPEGS | PNGS | WEBPS | TIFFS | OTHERS


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """A JPEG with one more segment, the first."""
    return (
        jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + jpeg[2:]
    )


def with_chunk(png: bytes, name: bytes, content: bytes, *, behind: bool = False) -> bytes:
    """A PNG with one more chunk: the second one, or the last but one."""
    at = png.rindex(b"IEND") - 4 if behind else 33
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return png[:at] + struct.pack(">I", len(content)) + name + content + checksum + png[at:]


def with_part(webp: bytes, name: bytes, content: bytes) -> bytes:
    """A WebP with one more chunk of metadata: EXIF, XMP or ICCP."""
    image = Image.open(io.BytesIO(webp))
    option = {b"EXIF": "exif", b"XMP ": "xmp", b"ICCP": "icc_profile"}[name]
    return encoded(image, "WEBP", lossless=True, exact=True, **{option: content})


def with_tag(tiff: bytes, tag: int, value_type: int, value: object, *, odd: bool = False) -> bytes:
    """A TIFF with one more field in its directory; without compression if the field is odd."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory.tagtype[tag] = value_type
    directory[tag] = value
    image = Image.open(io.BytesIO(tiff))
    # The library that compresses writes no odd fields.
    compression = None if odd else image.info.get("compression")
    return encoded(image, "TIFF", tiffinfo=directory, compression=compression)


def turned(kind: str, image: Image.Image, orientation: int, *, by_xmp: bool) -> bytes:
    """A file that lies, and says in EXIF or in XMP how to turn it."""
    data = KINDS[kind](lying(image, orientation))
    if kind in JPEGS:
        if by_xmp:
            return with_segment(data, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(orientation))
        return with_segment(data, 0xE1, exif(orientation))
    if kind in PNGS:
        if by_xmp:
            return with_chunk(data, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(orientation))
        return with_chunk(data, b"eXIf", exif(orientation).removeprefix(b"Exif\0\0"))
    if kind in WEBPS:
        content = xmp(orientation) if by_xmp else exif(orientation)
        return with_part(data, b"XMP " if by_xmp else b"EXIF", content)
    if kind in TIFFS:
        if by_xmp:
            return with_tag(data, _XMP, _UNDEFINED, xmp(orientation))
        return with_tag(data, ORIENTATION, _SHORT, orientation)
    return KINDS[kind](image)


def with_broken_metadata(kind: str, data: bytes, random: Random) -> bytes:
    """A sound image with EXIF, XMP, a colour profile or the like that nobody can read."""
    noise = random.randbytes(random.choice((0, 1, 2, 3, 8, 40)))
    exifs = (noise, bytes(8), b"II*\0", b"II*\0\x08\0\0\0" + noise, b"MM\0*\xff\xff\xff\xff")
    body = random.choice(exifs)
    if kind in JPEGS:
        segments = (
            (0xE1, b"Exif\0\0" + body),
            (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + noise),
            (0xE2, b"ICC_PROFILE\0" + noise),
            (0xE2, b"MPF\0" + body),
            (0xED, b"Photoshop 3.0\0" + b"8BIM" + noise),
            (0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0"),
            (0xEE, b"Adobe"),
            (0xFE, noise),
        )
        return with_segment(data, *random.choice(segments))
    if kind in PNGS:
        chunks = (
            (b"eXIf", body),
            (b"iCCP", b"icc\0\x07" + noise),
            (b"iCCP", noise),
            (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0\xff\xfe" + noise),
            (b"tEXt", b"Raw profile type exif\0\nexif\n 8\nzz" + noise.hex().encode()),
            (b"tEXt", b"xmp\0" + noise),
            (b"zTXt", b"a\0\0" + zlib.compress(bytes(3_000_000))),
            (b"pHYs", noise[:8]),
            (b"gAMA", noise[:3]),
        )
        return with_chunk(data, *random.choice(chunks), behind=random.random() < 0.5)
    if kind in WEBPS:
        return with_part(data, random.choice((b"EXIF", b"XMP ", b"ICCP")), body or b"\0")
    if kind in TIFFS:
        values: tuple[tuple[int, int, object], ...] = (
            (_XMP, _TEXT, "text"),
            (_XMP, _SHORT, 7),
            (_XMP, _FLOAT, 0.5),
            (_XMP, _UNDEFINED, noise or b"x"),
            (34675, _UNDEFINED, b"no profile"),
            (34665, _LONG, 2**31),  # EXIF far behind the file's end
            (ORIENTATION, _SHORT, 77),
        )
        return with_tag(data, *random.choice(values), odd=True)
    return data


def damaged(data: bytes, random: Random) -> bytes:
    """The bytes with some of them changed, left out or added, or cut off."""
    mutant = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        # Headers are short: half of the damage is for them.
        end = len(mutant) if random.random() < 0.5 else min(300, len(mutant))
        at = random.randrange(end)
        match random.randrange(4):
            case 0:
                mutant[at] = random.choice((0, 255, random.randrange(256)))
            case 1:
                del mutant[at : at + random.choice((1, 2, 8, 200))]
            case 2:
                mutant[at:at] = random.randbytes(random.choice((1, 2, 8, 200)))
            case 3:
                del mutant[max(at, 20) :]
        mutant = mutant or bytearray(1)
    return bytes(mutant)
