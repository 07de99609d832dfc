"""Names by which captions are known: of columns and fields of JSON, and of members of tars."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Whole lists of captions, each of an image.
LISTS = ("captions", "texts", "sentences.raw", "sentences")

# Of fields of JSON, and of columns of tables, the likeliest first. data/README.md has them too.
FIELDS = (
    *LISTS,
    "caption",
    "text",
    "sentence",
    "alt_text",
    "alt",
    "title",
    "description",
    "comment",
)

# Of members of tars: the last part of their extension.
MEMBERS = ("txt", *(name for name in FIELDS if "." not in name))

_NUMBER = re.compile(r"(\D*)(\d{1,4})(\D*)")


def is_usual_member(extension: str) -> bool:
    """Whether a member is a text by its name: `txt`, `caption`, `a.txt`."""
    return extension.rpartition(".")[2] in MEMBERS


def numbered(names: Iterable[str]) -> list[list[str]]:
    """Finds usual names that differ by a number only: `caption0.txt`, `caption1.txt`, ….

    Args:
        names: Extensions, or names of fields, in lower case.

    Returns:
        Lists of at least two names, each in the order of its numbers.
    """
    families: dict[tuple[str, str], dict[int, str]] = {}
    for name in names:
        if found := _NUMBER.fullmatch(name):
            begin, number, end = found.groups()
            families.setdefault((begin, end), {}).setdefault(int(number), name)

    lists = []
    for (begin, end), family in families.items():
        stem = f"{begin}{end}".strip("._- ")
        if len(family) > 1 and is_usual_member(stem):
            lists.append([family[number] for number in sorted(family)])
    return lists
