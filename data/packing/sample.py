"""Some of the pairs that are packed, to be looked at. Pairs are shuffled: the first ones serve."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from align_train.stream.bad_image import BadImage
from align_train.stream.decode import Pixels, Views, centre
from align_train.stream.upright import upright

from .images import Pair

_PAIRS = 24
_SIDE = 144  # pixels of an image on a contact sheet


class Sample:
    """The first pairs.

    Attributes:
        pairs: The pairs.
        pixels: Their images, whole, as small squares.
        sides: The shorter side of each image, in pixels.
    """

    def __init__(self) -> None:
        """Begins with nothing."""
        self.pairs: list[Pair] = []
        self.pixels: list[Pixels] = []
        self.sides: list[int] = []

    def offer(self, pair: Pair, content: bytes) -> None:
        """Takes a pair, if there is room. content: its image's bytes."""
        if len(self.pairs) == _PAIRS:
            return
        # Of a JPEG only the header was checked before.
        try:
            image = upright(content)
        except BadImage:
            return

        self.pairs.append(pair)
        self.pixels.append(centre(image, Views(image_size=_SIDE, resize_size=_SIDE)))
        self.sides.append(min(image.size))

    @property
    def side(self) -> int:
        """The usual shorter side of the images, in pixels; 0 if none could be decoded."""
        sides: Sequence[int] = self.sides
        return int(median(sides)) if sides else 0
