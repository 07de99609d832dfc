"""An image as people give it, a path, an array or an open image, to upright RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from align_train.errors import shown
from align_train.shards.image_kind import HEAD, image_kind
from align_train.stream.bad_image import BadImage
from align_train.stream.upright import upright

AnyImage = str | Path | Image.Image | NDArray[np.uint8]
"""A file's path, an open image, or pixels: uint8 `[height, width, 3]`; grey: `[height, width]`."""


def open_image(image: AnyImage) -> Image.Image:
    """Opens an image.

    Args:
        image: Of any of these kinds.

    Returns:
        The image; that of a file is upright RGB.

    Raises:
        BadImage: It cannot be read, or is no image; says why, and which file it is.
    """
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        return _of_array(image)
    if not isinstance(image, str | Path):
        raise BadImage(f"a {type(image).__name__}; expected a path, an image of Pillow or an array")
    try:
        return upright(_content(image))
    except BadImage as error:
        raise BadImage(f"{shown(str(image))}: {error}") from None


def _of_array(pixels: NDArray[np.uint8]) -> Image.Image:
    is_grey = pixels.ndim == 2
    if pixels.dtype != np.uint8 or not (is_grey or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise BadImage(
            f"an array of {pixels.dtype} {list(pixels.shape)}; expected uint8 [height, width, 3]"
        )
    return Image.fromarray(pixels)


def _content(image: str | Path) -> bytes:
    try:
        path = Path(image).expanduser()
        if path.exists() and not path.is_file():
            # A pipe or a device may never end.
            raise BadImage("a folder or a device, no file")
        with path.open("rb") as file:
            # Before all of it is read: it may be a shard, or a film.
            head = file.read(HEAD)
            if image_kind(head) is None:
                raise BadImage("not an image of a known kind")
            return head + file.read()
    except BadImage:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        # No path may hold a zero byte, and the home of `~name` may be unknown.
        reason = getattr(error, "strerror", None) or error
        raise BadImage(f"cannot be read ({reason})") from None
