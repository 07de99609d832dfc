"""The bytes of an image as they go into a shard, if it is a good one."""

from __future__ import annotations

import io
import re
from pathlib import PurePath

from align_train.shards.image_kind import HEAD, image_kind
from align_train.stream.bad_image import BadImage
from align_train.stream.upright import check_header, upright

# Images of these kinds stay as they are, others become PNG. The first ending is the usual one.
_KEPT = {"JPEG": ("jpg", "jpeg"), "PNG": ("png",), "WEBP": ("webp",)}

# Servers answer with a page in place of an image that is gone.
_HTML = re.compile(
    rb"(\s|\xef\xbb\xbf|<\?xml[^>]*>|<!--.*?-->)*<(!doctype|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)
_HTML_WITHIN = 1024  # bytes

_JPEG_ENDS_WITHIN = 4096  # bytes; cameras append data of their own
_PNG_ENDS_WITHIN = 64


class NoImage(BadImage):
    """The bytes are none of an image at all: a page, or nothing."""


def packed(data: bytes, name: str) -> tuple[str, bytes]:
    """The extension and the bytes that go into the shard.

    JPEG, PNG and WebP stay as they are, turned ones too: whoever decodes them turns them. Of these
    the header is checked, and the end; only one that does not end as it should is decoded.

    Args:
        data: The image's file.
        name: Its name; the ending is a hint.

    Returns:
        The extension without a dot, and the content.

    Raises:
        NoImage: This is no image.
        BadImage: It is one that cannot be used; says why.
    """
    kind = image_kind(data[:HEAD])
    if not data:
        raise NoImage("an empty file")
    if kind is None and _HTML.match(data[:_HTML_WITHIN]):
        raise NoImage("HTML, not an image")

    endings = _KEPT.get(kind or "")
    if endings:
        check_header(data)
        # A download that was cut has a sound header.
        if not _ends_well(kind or "", data):
            upright(data)
        # The content decides: a PNG that is called .jpg gets the ending png.
        own = PurePath(name).suffix.lower().lstrip(".")
        return own if own in endings else endings[0], data

    buffer = io.BytesIO()
    upright(data).save(buffer, "PNG")
    return "png", buffer.getvalue()


def _ends_well(kind: str, data: bytes) -> bool:
    """Whether a file has the end that its kind must have: a look at a few bytes."""
    if kind == "JPEG":
        return b"\xff\xd9" in data[-_JPEG_ENDS_WITHIN:]
    if kind == "PNG":
        return b"IEND" in data[-_PNG_ENDS_WITHIN:]
    return int.from_bytes(data[4:8], "little") + 8 <= len(data)  # WebP
