"""Texts cut into lines: between words, and with `…` where the text goes on.

No word is broken. One that is wider than a line ends in `…`. Scripts that have no spaces, as
Chinese, Japanese and Thai, may break between any two characters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator

MORE = "…"

Measure = Callable[[str], float]
"""How wide a text is."""

# Thai, Lao, Burmese and Khmer.
_WITHOUT_SPACES = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF))

# Between the parts of one emoji, and after some: a joiner, a variant, a tone of skin.
_JOINER = "\u200d"
_JOINED = (_JOINER, "\ufe0e", "\ufe0f", *map(chr, range(0x1F3FB, 0x1F400)))


def wrap(text: str, *, width: float, lines: int, measure: Measure) -> list[str]:
    """Cuts a text into lines.

    Args:
        text: The text. Any white space is one space.
        width: Of a line, as `measure` gives it.
        lines: The most lines.
        measure: How wide a text is.

    Returns:
        The lines, none wider than `width` unless a single character is. The last one ends in `…` if
        the text goes on.
    """
    done: list[str] = []
    line = ""
    for gap, unit in _units(text):
        if line and measure(line + gap + unit) <= width:
            line += gap + unit
            continue
        if line:
            done.append(line)
        if len(done) == lines:
            done[-1] = _with_more(done[-1], width, measure)
            return done
        line = unit if measure(unit) <= width else _with_more(unit, width, measure, of_word=True)
    return [*done, line] if line else done


def _with_more(line: str, width: float, measure: Measure, *, of_word: bool = False) -> str:
    """Ends a line in `…`, after as many of its units as fit; or a word's characters."""
    if line.endswith(MORE):
        return line
    parts = [("", letter) for letter in line] if of_word else list(_units(line))
    kept = ""
    for gap, part in parts:
        longer = kept + gap + part if kept else part
        if measure(longer + MORE) > width:
            break
        kept = longer
    if kept or of_word or len(parts) > 1:
        return kept + MORE
    # One word fills the line: there is no room behind it.
    return _with_more(line, width, measure, of_word=True)


def _units(text: str) -> Iterator[tuple[str, str]]:
    """Yields what stays together, each with the gap before it: a space or nothing."""
    for word in text.split():
        gap = " "
        unit = ""
        for letter in word:
            if unit and _may_break(unit[-1], letter):
                yield gap, unit
                gap = ""
                unit = ""
            unit += letter
        yield gap, unit


def _may_break(before: str, after: str) -> bool:
    """Whether a line may end between two characters of a word."""
    if before == _JOINER or after in _JOINED or unicodedata.category(after).startswith("M"):
        return False
    # Punctuation stays with the character before it.
    if unicodedata.category(after).startswith("P"):
        return False
    return _is_spaceless(before) or _is_spaceless(after)


def _is_spaceless(letter: str) -> bool:
    if letter.isascii():
        return False
    if unicodedata.east_asian_width(letter) in "WF":
        return True
    return any(first <= ord(letter) <= last for first, last in _WITHOUT_SPACES)
