"""The guard around libraries that read an image: whatever they raise becomes one line.

Pillow parses most kinds of images in Python, and its codecs have errors of their own. A list of
their exceptions has never been complete, so the guard has none.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from align_train.errors import shown

# An image that claims more is taken for a decompression bomb and never decoded: decoding takes some
# ten bytes a pixel, in each loader process. No JPEG has longer sides.
MAX_PIXELS = 8192 * 8192
MAX_SIDE = 65_535


class BadImage(ValueError):
    """An image that cannot be used; the text is the reason, in one line."""


@contextmanager
def guarded() -> Iterator[None]:
    """Turns whatever a library raises for an image into a `BadImage`, and silences its warnings.

    Yields:
        Once, around calls of the library alone: a defect of ours is no fault of the image.

    Raises:
        BadImage: The library has refused the image.
    """
    with warnings.catch_warnings():
        # Of odd metadata, and of images of 89 to 179 million pixels: the limit here is our own.
        warnings.simplefilter("ignore")
        try:
            yield
        except BadImage:
            raise
        except MemoryError:
            # A real shortage kills the process. This one is a file that asks for the impossible.
            raise BadImage("broken image: it asks for more memory than there is") from None
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BadImage(f"broken image: {shown(reason)}") from None


def check_sides(width: int, height: int, most: int | None = None) -> None:
    """Refuses an image by the size that it claims, before memory is taken for it.

    Args:
        width: In pixels.
        height: In pixels.
        most: Pixels that an image may have; None: as in training.

    Raises:
        BadImage: It has no pixels, or too many.
    """
    if width < 1 or height < 1:
        raise BadImage(f"image of {width} x {height} pixels: nothing to see")
    most = MAX_PIXELS if most is None else most
    if width * height > most or max(width, height) > MAX_SIDE:
        raise BadImage(
            f"image of {width} x {height} pixels is taken for a decompression bomb: at most "
            f"{most:,} pixels and sides of {MAX_SIDE:,} are decoded"
        )
