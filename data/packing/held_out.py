"""The setting `held_out`: pairs that are packed apart, to evaluate a run on.

A hash of the image chooses them, so neither the seed nor the order of the source moves a pair.
Equal images, under whatever names, stay on one side. The rule: images go in the order of their
hashes, and all pairs of an image are held out if they are no more than are still wanted. If they
are more, the image is passed over and stays in training. So never more pairs are held out than are
wanted, and fewer only if equal images prevent it; then a line says so.

How often an image comes is known when all are read. Until then the images with the smallest hashes
are candidates, and their pairs are read again in the end. Candidates are `wanted + pairs / wanted`
images: only `pairs / wanted` of them can come more than `wanted` times, so there are enough others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from heapq import heappush, heappushpop

from align_train.errors import UserError
from align_train.shards.left_out import counted
from align_train.stream.upright import upright

from .images import Pair, Spool
from .remote import RemoteImage

_DIGEST = 16  # bytes


@dataclass(slots=True)
class _Candidate:
    """An image that may be held out.

    Attributes:
        count: How often it came.
        pairs: Its pairs; none if they are too many.
    """

    count: int
    pairs: list[Pair]


class HeldOut:
    """Chooses the pairs that are held out.

    Attributes:
        wanted: How many pairs the setting asks for; of a share less if images are bad.
        repeats: How often the rarest image that was passed over comes; 0: none was.
    """

    def __init__(self, setting: float, pairs: int, spool: Spool) -> None:
        """Computes how many images are candidates.

        Args:
            setting: A share of the pairs, or their number; 0: none.
            pairs: How many there are, at most: images may be bad.
            spool: Keeps candidates from a URL.

        Raises:
            UserError: No pair would be left to train on.
        """
        self._setting = setting
        self._spool = spool
        self.wanted = self._wanted(pairs) if setting else 0
        self.repeats = 0
        self._most = 0
        if setting:
            # Raised before the first image is read.
            if self.wanted >= pairs:
                raise self._none_left(pairs)
            self._most = self.wanted + pairs // self.wanted + 1
        # By their hashes, and a heap with the largest hash first.
        self._candidates: dict[int, _Candidate] = {}
        self._largest: list[int] = []
        self._rejected: list[Pair] = []

    def is_candidate(self, pair: Pair, image: bytes) -> bool:
        """Whether a pair may be held out; it is then kept, and `decide` returns it.

        Args:
            pair: The pair.
            image: Its image as it goes into a shard.

        Raises:
            BadImage: The image cannot be decoded: an evaluation takes whole ones only.
        """
        if not self._setting:
            return False
        number = int.from_bytes(blake2b(image, digest_size=_DIGEST).digest())
        if number in self._candidates:
            return self._add(self._candidates[number], pair, image)

        # Python's heaps have the least first: hashes are negated, for the largest to come first.
        is_full = len(self._candidates) == self._most
        if is_full and number > -self._largest[0]:
            return False
        upright(image)
        self._candidates[number] = _Candidate(1, [self._kept(pair, image)])
        if is_full:
            # No pair of that image can become a candidate again: smaller hashes fill the heap.
            self._rejected += self._candidates.pop(-heappushpop(self._largest, -number)).pairs
        else:
            heappush(self._largest, -number)
        return True

    def decide(self, others: int) -> tuple[list[Pair], list[Pair]]:
        """Chooses among the candidates.

        Args:
            others: How many good pairs are none.

        Returns:
            The pairs that are held out, and those to train on; equal images lie side by side.

        Raises:
            UserError: No pair could be held out, or none would be left to train on.
        """
        candidates = [candidate for _, candidate in sorted(self._candidates.items())]
        kept = sum(len(candidate.pairs) for candidate in candidates)
        pairs = others + len(self._rejected) + kept
        if not self._setting or not pairs:
            return [], []
        # Anew: a share of the pairs that turned out to be good.
        self.wanted = self._wanted(pairs)
        if candidates[0].count == pairs:
            raise UserError(
                f"held_out={self._setting:g}: the images of all {counted(pairs, 'pair')} are "
                f"equal, and equal images are not parted; give held_out=0"
            )
        if self.wanted >= pairs:
            raise self._none_left(pairs)

        held_out: list[Pair] = []
        passed_over: list[int] = []
        for candidate in candidates:
            if len(held_out) + candidate.count <= self.wanted:
                held_out += candidate.pairs
            else:
                self._rejected += candidate.pairs
                passed_over.append(candidate.count)

        if len(held_out) < self.wanted:
            self.repeats = min(passed_over)
        if not held_out:
            raise UserError(
                f"held_out={self._setting:g}: {counted(self.wanted, 'pair')} cannot be held out: "
                f"each image comes {self.repeats:,} times or more, and equal images are not "
                f"parted; give held_out={self.repeats} or more, or 0"
            )
        return held_out, self._rejected

    def _add(self, candidate: _Candidate, pair: Pair, image: bytes) -> bool:
        """Counts another pair of a candidate; returns whether it may be held out."""
        candidate.count += 1
        if candidate.count > self.wanted:
            # Thousands of equal images would follow each other at the end of the shards.
            self._rejected += candidate.pairs
            candidate.pairs = []
            return False
        candidate.pairs.append(self._kept(pair, image))
        return True

    def _kept(self, pair: Pair, image: bytes) -> Pair:
        """A pair that can be read again: a second download may fail, or bring another image."""
        if not isinstance(pair.image, RemoteImage):
            return pair
        name = pair.image.name
        return Pair(replace(self._spool.keep(image, name), name=name), pair.texts)

    def _wanted(self, pairs: int) -> int:
        if self._setting >= 1:
            # 1 is one pair, not all of them: nothing would be left to train on.
            return int(self._setting)
        return max(round(self._setting * pairs), 1)

    def _none_left(self, pairs: int) -> UserError:
        return UserError(
            f"held_out={self._setting:g}: of {counted(pairs, 'pair')} none would be left to train "
            f"on; give a smaller share or number"
        )
