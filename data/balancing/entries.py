"""Entries: the concepts that pairs are balanced by, and which of them a text holds.

The rule is MetaCLIP's (arXiv 2309.16671): a text holds an entry if the entry, between two spaces,
is a part of the text. Before that the text gets a space at both ends and around each of the marks
, . ; : ? ! and the backtick, and spaces in place of tabs and line ends. So an entry such as `d.c.`
is in no text, as in MetaCLIP. Letters are compared as they are.

Price: a text of 20 words is matched in 5 microseconds, however many entries there are; an entry
takes about 150 bytes of memory.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from pathlib import Path

from align_train.errors import UserError, shown
from align_train.files import write_whole
from align_train.shards.caption import is_unicode, parse_json
from align_train.shards.left_out import LeftOut

_WRAPPED = ",.;:?!`"
_SPACES = "\t\n\r"
_MARKS = frozenset(string.punctuation)

_NEVER_HELD = "texts that no pair can hold, for a mark that is not between spaces, or no Unicode"


def words_of(text: str) -> list[str]:
    """The words of a text; empty ones where two spaces follow each other."""
    # Most texts have few of these characters; `translate` would look at every letter.
    for mark in _WRAPPED:
        if mark in text:
            text = text.replace(mark, f" {mark} ")
    for space in _SPACES:
        if space in text:
            text = text.replace(space, " ")
    return text.split(" ")


def phrases_of(text: str) -> set[str]:
    """The unigrams and bigrams of a text that may become entries: without marks by themselves."""
    phrases: set[str] = set()
    before = ""
    for word in words_of(text):
        # Few words have a mark at their beginning: the others need not be looked at as a whole.
        if not word or (word[0] in _MARKS and _MARKS.issuperset(word)):
            before = ""
            continue
        phrases.add(word)
        # Neighbours only: a mark between two words parts them.
        if before:
            phrases.add(f"{before} {word}")
        before = word
    return phrases


class Matcher:
    """Finds the entries that a text holds."""

    def __init__(self, entries: Sequence[str]) -> None:
        """Builds the dictionary.

        Args:
            entries: The entries, each once.
        """
        self._indices = {entry: index for index, entry in enumerate(entries)}
        # What longer entries begin with: most words begin none, and end the search.
        self._beginnings: set[str] = set()
        for entry in entries:
            words = entry.split(" ")
            for length in range(1, len(words)):
                self._beginnings.add(" ".join(words[:length]))

    def __call__(self, texts: Iterable[str]) -> set[int]:
        """Returns the indices of the entries that any of the texts holds."""
        found: set[int] = set()
        for text in texts:
            words = words_of(text)
            for first, word in enumerate(words):
                if word in self._indices:
                    found.add(self._indices[word])
                if word in self._beginnings:
                    self._add_longer(words, first, found)
        return found

    def _add_longer(self, words: Sequence[str], first: int, found: set[int]) -> None:
        """Adds the entries of two and more words that begin with a word of a text."""
        phrase = words[first]
        for last in range(first + 1, len(words)):
            phrase = f"{phrase} {words[last]}"
            if phrase in self._indices:
                found.add(self._indices[phrase])
            if phrase not in self._beginnings:
                return


def read_entries(path: Path, *, lower: bool) -> list[str]:
    """Reads entries: a line each, or a list in a .json (MetaCLIP's metadata).

    Args:
        path: The file.
        lower: Whether they are lower-cased.

    Returns:
        Each that a text can hold, once, in their order.

    Raises:
        UserError: The file cannot be read, or has no entries.
    """
    wanted = "a file with one entry a line, or a .json with a list of texts"
    try:
        content = path.read_bytes()
        if path.suffix == ".json":
            lines = parse_json(content)
        else:
            # Not `splitlines`, which also splits at other characters. `-sig` skips Notepad's mark.
            lines = content.decode("utf-8-sig").replace("\r", "\n").split("\n")
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not such a text"
        raise UserError(f"entries={path}: cannot be read ({reason}); expected {wanted}") from None

    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise UserError(f"entries={path}: found {shown(lines)}; expected {wanted}")
    stripped = [line.strip(" \t\r\n") for line in lines]
    entries = [entry.lower() if lower else entry for entry in stripped if entry]
    # After lower case, by which two entries may become one.
    once = list(dict.fromkeys(entries))
    held = [entry for entry in once if _can_be_held(entry)]

    left_out = LeftOut.of(_NEVER_HELD, [entry for entry in once if not _can_be_held(entry)])
    left_out.add("texts that came before", count=len(entries) - len(once))
    left_out.say(path)
    if not held:
        raise UserError(f"entries={path}: has no entries that a text can hold; expected {wanted}")
    return held


def write_entries(entries: Sequence[str], path: Path) -> None:
    """Writes entries, a line each, as `read_entries` takes them."""
    text = "".join(f"{entry}\n" for entry in entries)
    write_whole(path, text, fix="free some space or choose another place with to=…")


def _can_be_held(entry: str) -> bool:
    """Whether any text holds an entry: in texts, marks stand between spaces."""
    words = entry.split(" ")
    marks_alone = all(len(word) == 1 or not set(word) & set(_WRAPPED) for word in words)
    return marks_alone and not set(entry) & set(_SPACES) and is_unicode(entry)
