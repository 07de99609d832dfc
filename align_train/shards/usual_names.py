"""Names by which captions are known: of columns and fields of JSON, and of members of tars."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Whole lists of captions, each of an image.
LISTS = ("captions", "texts", "sentences.raw", "sentences")

# Of fields of JSON, and of columns of tables, the likeliest first. docs/packing.md has them too.
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
_BESIDE_NUMBERS = "._- "


def is_usual_member(extension: str) -> bool:
    """Whether a member is a text by its name: `txt`, `caption`, `a.txt`."""
    return extension.rpartition(".")[2] in MEMBERS


def is_usual_json(extension: str) -> bool:
    """Whether a JSON member may be a list of captions by its name: `json`, `captions.json`."""
    if extension == "json":
        return True
    name, dot, ending = extension.rpartition(".")
    return bool(dot) and ending == "json" and (not name or is_usual_member(name))


def numbered(names: Iterable[str]) -> list[list[str]]:
    """Finds usual names that differ by a number only: `caption0.txt`, `caption1.txt`, ….

    Args:
        names: Extensions, or names of fields, in lower case, each once.

    Returns:
        Lists of at least two names, each in the order of its numbers; `caption01` and `caption1`
        are two names.
    """
    families: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for name in names:
        if found := _NUMBER.fullmatch(name):
            begin, number, end = found.groups()
            families.setdefault((begin, end), []).append((int(number), name))

    lists = []
    for (begin, end), family in families.items():
        if len(family) > 1 and _is_usual_family(begin, end):
            lists.append([name for _, name in sorted(family)])
    return lists


def _is_usual_family(begin: str, end: str) -> bool:
    """Whether names are usual without their numbers."""
    if end.endswith(".json"):
        return is_usual_json(f"{begin.rstrip(_BESIDE_NUMBERS)}{end}")
    return is_usual_member(f"{begin}{end}".strip(_BESIDE_NUMBERS))
