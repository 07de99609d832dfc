"""Brace ranges (`{00000..00099}.tar`) and alternatives (`{a,b}`), expanded as bash expands them.

The names are counted before they are made: a few characters may stand for more than memory holds.
"""

from __future__ import annotations

import re

from braceexpand import braceexpand

from align_train.errors import UserError, shown

_MOST_NAMES = 10_000_000  # of one pattern: they are held in memory

_COUNTED_TO = 10**30
_LONGEST_RANGE = 60  # characters

# Ranges within braces, as braceexpand knows them: the two ends, and the step.
_NUMBERS = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.-?(\d+))?")


def expand_braces(pattern: str) -> list[str]:
    """Expands the braces of a pattern.

    Args:
        pattern: May have globs, which stay as they are.

    Returns:
        The names, in the order of the alternatives; the pattern itself if it has no braces.

    Raises:
        UserError: A brace is not closed, or the names are too many.
    """
    count = _count_of_names(pattern)
    if count > _MOST_NAMES:
        raise UserError(
            f"{shown(pattern)}: the braces give {count:,} names, more than {_MOST_NAMES:,}"
        )

    try:
        return list(braceexpand(pattern))
    except ValueError:
        raise UserError(
            f"{shown(pattern)}: a brace is not closed; a range is written {{00000..00099}}.tar"
        ) from None


def _count_of_names(pattern: str) -> int:
    """How many names braces give, or somewhat more; braceexpand holds all of them at once."""
    # Of each open brace: where its content begins, the names of its alternatives before this one,
    # and those of this one so far.
    braces_open = [(0, 0, 1)]
    # A rough count suffices: braceexpand decides whether the pattern is valid.
    position = 0

    while position < len(pattern):
        start, before, names = braces_open[-1]
        letter = pattern[position]
        position += 1
        if letter == "\\":
            position += 1
        elif letter == "{":
            braces_open.append((position, 0, 1))
        elif letter == "," and len(braces_open) > 1:
            braces_open[-1] = (start, before + names, 1)
        elif letter == "}" and len(braces_open) > 1:
            braces_open.pop()
            inner = _length_of_range(pattern[start : position - 1]) or before + names
            start, before, names = braces_open[-1]
            braces_open[-1] = (start, before, min(names * inner, _COUNTED_TO))
    return braces_open[0][2]


def _length_of_range(text: str) -> int:
    """How many names a range like `00000..00099` gives; 0 if it is none."""
    if found := _NUMBERS.fullmatch(text):
        # Nobody means so long a number, and Python refuses to read one of thousands of digits.
        if len(text) > _LONGEST_RANGE:
            return _COUNTED_TO
        first, last = int(found[1]), int(found[2])
    elif found := _LETTERS.fullmatch(text):
        first, last = ord(found[1]), ord(found[2])
    else:
        return 0

    step = int(found[3] or 1) or 1
    return abs(last - first) // step + 1
