"""The setting `held_out`: pairs that are packed apart, to evaluate a run on.

They are drawn by a hash of their images. So equal images are on one side, and neither the seed nor
the order of the source moves a pair. Which hashes are the smallest is known when all images have
been read: until then a few more pairs than are wanted are put aside, and read again in the end.
"""

from __future__ import annotations

from hashlib import blake2b
from math import sqrt

from align_train.errors import UserError
from align_train.stream.upright import upright

from .images import Pair

FOLDER = "held_out"  # in the folder of the shards

_DIGEST = 16  # bytes
_MARGIN = 5  # standard deviations: with this many, some are missing once in millions of packings
_MORE = 10  # pairs


class HeldOut:
    """Draws the pairs with the smallest hashes."""

    def __init__(self, setting: float, pairs: int) -> None:
        """Draws nothing yet.

        Args:
            setting: A share of the pairs, or their number; 0: none.
            pairs: How many there are, at most: images may be bad.

        Raises:
            UserError: No pair would be left to train on.
        """
        self._setting = setting
        self._bound = 0.0
        self._aside: list[tuple[bytes, Pair]] = []
        if setting:
            wanted = self._wanted(pairs)
            if wanted >= pairs:
                raise self._none_left(pairs)
            self._bound = (wanted + _MARGIN * sqrt(wanted) + _MORE) / pairs

    def puts_aside(self, pair: Pair, image: bytes) -> bool:
        """Whether a pair waits until all are read; `split` says what becomes of it.

        Args:
            pair: The pair.
            image: Its image as it goes into a shard.

        Raises:
            BadImage: The image cannot be decoded: an evaluation takes whole ones only.
        """
        if not self._bound:
            return False
        digest = blake2b(image, digest_size=_DIGEST).digest()
        if int.from_bytes(digest) >= self._bound * 256**_DIGEST:
            return False
        upright(image)
        self._aside.append((digest, pair))
        return True

    def split(self, packed: int) -> tuple[list[Pair], list[Pair]]:
        """Decides about the pairs that were put aside.

        Args:
            packed: How many good pairs were not.

        Returns:
            Those that are held out, and those to train on, in the order of their hashes.

        Raises:
            UserError: No pair would be left to train on.
        """
        aside = sorted(self._aside, key=lambda item: item[0])
        pairs = packed + len(aside)
        if not self._setting or not pairs:
            return [], []

        count = min(self._wanted(pairs), len(aside))
        # Of equal images all are taken.
        while 0 < count < len(aside) and aside[count][0] == aside[count - 1][0]:
            count += 1
        if count == pairs:
            raise self._none_left(pairs)
        ordered = [pair for _, pair in aside]
        return ordered[:count], ordered[count:]

    def _wanted(self, pairs: int) -> int:
        if self._setting >= 1:
            return int(self._setting)
        return max(round(self._setting * pairs), 1)

    def _none_left(self, pairs: int) -> UserError:
        return UserError(
            f"held_out={self._setting:g}: of {pairs:,} pairs none would be left to train on; give "
            f"a smaller share or number"
        )
