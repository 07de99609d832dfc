"""Counts what is left out, by reason, and says it in one line: nothing is lost silently."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping

from align_train.cluster.launcher import is_first_process
from align_train.errors import printable, shown


class LeftOut:
    """What was left out: for each reason how much of it, and the first example."""

    def __init__(self) -> None:
        """Begins with nothing."""
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    @classmethod
    def of(cls, reason: str, things: Collection[object]) -> LeftOut:
        """Counts things that were left out for one reason."""
        left_out = cls()
        for thing in things:
            left_out.add(reason, thing)
        return left_out

    def add(self, reason: str, example: object = "", *, count: int = 1) -> None:
        """Counts something.

        Args:
            reason: Follows the number in the line: `2 broken links`, and `1 broken link`.
            example: Names it; the first one of a reason is said. Empty: none is.
            count: How much of it.
        """
        if count:
            self._counts[reason] = self._counts.get(reason, 0) + count
            self._first.setdefault(reason, str(example))

    def update(self, other: LeftOut) -> None:
        """Counts what another one has counted."""
        for reason, count in other.counts.items():
            self.add(reason, other.first(reason), count=count)

    @property
    def counts(self) -> Mapping[str, int]:
        """How much was left out by each reason."""
        return self._counts

    def first(self, reason: str) -> str:
        """The first example of a reason."""
        return self._first[reason]

    def total(self) -> int:
        """How much was left out for all reasons."""
        return sum(self._counts.values())

    def __str__(self) -> str:
        parts = []
        for reason, count in self._counts.items():
            first = self._first[reason]
            # Of a path the end says most.
            if len(first) > _LONGEST_EXAMPLE:
                first = f"…{first[1 - _LONGEST_EXAMPLE :]}"
            named = f" (first {shown(first)})" if first else ""
            parts.append(f"{count:,} {_of_one(reason) if count == 1 else reason}{named}")
        return ", ".join(parts)

    def say(self, place: object, what: str = "left out") -> None:
        """Prints one line on stderr, on the first process, if anything was counted.

        Args:
            place: Where it was found.
            what: Begins the line, after the place.
        """
        if self._counts and is_first_process():
            print(f"{printable(str(place))}: {what} {self}", file=sys.stderr, flush=True)


def counted(count: int, noun: str) -> str:
    """A number and a noun: `1 pair`, `2,000 pairs`.

    Args:
        count: The number.
        noun: Takes an s if there is not one.
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def are(count: int) -> str:
    """The verb after a number."""
    return "is" if count == 1 else "are"


def _of_one(reason: str) -> str:
    """A reason whose first noun, and the verb after it, are those of one thing."""
    # `neither files nor folders` stands after `1` as well.
    if reason.startswith("neither"):
        return reason
    one = _NOUNS.sub(r"\1", reason, count=1).replace(" that are no images", " that is no image")
    return one.replace(" that are ", " that is ").replace(" that were ", " that was ")


_NOUNS = re.compile(r"\b(file|folder|image|link|list|member|pair|row|tar|text)s\b")

_LONGEST_EXAMPLE = 80  # characters
