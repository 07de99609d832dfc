"""An image that came from outside: bytes that are decoded late, one after the other.

The only way to pixels is the project's own guarded one (`stream/upright.py`): known kinds by their
first bytes, sides checked before memory is taken, never a file, never a program.

Price: decoding takes some ten bytes a pixel, for as many images at a time as there are cores.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass

from PIL import Image

from align_train.serving.refused import Busy, Refused
from align_train.stream.bad_image import BadImage, check_sides
from align_train.stream.decode import Pixels, Views, centre
from align_train.stream.upright import upright


@dataclass(frozen=True)
class Upload:
    """An image file that nobody has opened yet.

    Attributes:
        data: The file's bytes.
    """

    data: bytes


AnyUpload = Upload | Image.Image
"""An image file's bytes, or an image that the page has opened."""


class Decoder:
    """Makes pixels of uploads, a few at a time."""

    def __init__(self, *, max_pixels: int) -> None:
        """Decodes nothing yet.

        Args:
            max_pixels: Pixels that an image may have.
        """
        self.max_pixels = max_pixels
        # Only the cores that this process may use: Slurm may give it few of them.
        self._at_once = threading.BoundedSemaphore(len(os.sched_getaffinity(0)))

    def prepared(self, image: AnyUpload, views: Views, *, item: str, until: float) -> Pixels:
        """Prepares an image as evaluation and `align_train.load` do.

        Args:
            image: The upload.
            views: The model's sizes.
            item: Its name in errors, `images[3]`.
            until: When to give up, by `time.monotonic`.

        Returns:
            uint8 `[image_size, image_size, 3]`.

        Raises:
            Refused: It is no image that can be decoded, or has too many pixels.
            Busy: It is later than that.
        """
        left = until - time.monotonic()
        if left <= 0 or not self._at_once.acquire(timeout=left):
            raise Busy(f"{item}: no answer in time; ask again later")
        try:
            if isinstance(image, Upload):
                return centre(upright(image.data, most=self.max_pixels), views)
            # An open image knows its sides, while those of a file are checked by `upright`.
            check_sides(*image.size, self.max_pixels)
            return centre(image, views)
        except BadImage as error:
            raise Refused(f"{item}: {error}") from None
        finally:
            self._at_once.release()


def limit_pillow(max_pixels: int) -> None:
    """Makes Pillow refuse larger images in this whole process, wherever they are opened.

    Args:
        max_pixels: Pixels that an image may have.
    """
    # Pillow warns above its limit, and refuses above twice the limit.
    Image.MAX_IMAGE_PIXELS = max_pixels // 2
