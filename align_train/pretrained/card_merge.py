"""A model card written anew over one that somebody has edited: what they wrote stays.

Our part of the text lies between two comments, and all else is theirs. Of the metadata a key is
ours as long as its value is the one that we wrote: our part ends with a digest of each. A key that
they changed, added or removed stays so, in their spelling.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

import yaml

from align_train.errors import UserError
from align_train.pretrained import BEGIN
from align_train.pretrained.card import END, head_of

_HEAD = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)

# From the last beginning before an end: between two of them may be somebody's text.
_OURS = re.compile(rf"{re.escape(BEGIN)}(?:(?!{re.escape(BEGIN)}).)*?{re.escape(END)}", re.DOTALL)
_WRITTEN = re.compile(r"<!-- align_train: metadata (\{.*?\}) -->")

# A key at the left edge, with all lines that belong to it.
_KEY = re.compile(r"^(?=[^\s#-][^:\n]*:)", re.MULTILINE)

_DIGITS = 8


def merged(ours: str, theirs: str | None) -> str:
    """Joins a new card with the one that is there.

    Args:
        ours: As `card` writes it.
        theirs: The one that is there; None: there is none.

    Returns:
        The card to write.

    Raises:
        UserError: The metadata that is there is no YAML.
    """
    head, text = _split(ours)
    part = _OURS.search(text)
    assert part is not None
    record = {key: _digest(value) for key, value in _values(head).items()}
    note = f"<!-- align_train: metadata {json.dumps(record)} -->\n{END}"
    mine = part[0].removesuffix(END) + note
    if theirs is None:
        return f"---\n{head}---\n\n{mine}\n"

    their_head, their_text = _split(theirs)
    head = _merged_head(head, their_head, _written(their_text))
    before = _OURS.search(their_text)
    # A card by hand, without our comments: our part goes behind it.
    if before is None:
        body = f"{their_text.rstrip()}\n\n{mine}\n" if their_text.strip() else f"\n{mine}\n"
    else:
        body = their_text[: before.start()] + mine + their_text[before.end() :]
    return f"---\n{head}---\n{body}"


def _split(text: str) -> tuple[str, str]:
    """The YAML between the two lines of dashes, and what follows."""
    found = _HEAD.match(text)
    return (found[1], text[found.end() :]) if found else ("", f"\n{text}")


def _written(text: str) -> Mapping[str, str]:
    """The digests of the metadata that we wrote last time."""
    part = _OURS.search(text)
    found = _WRITTEN.search(part[0]) if part else None
    # A record that somebody has edited proves nothing: then all keys count as theirs.
    try:
        record = json.loads(found[1]) if found else {}
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _merged_head(ours: str, theirs: str, written: Mapping[str, str]) -> str:
    """The metadata of both. written: digests of what we wrote last time."""
    new = _values(ours)
    old = _values(theirs)
    blocks = []
    for block in _KEY.split(theirs):
        key = block.partition(":")[0].strip(" '\"")
        is_ours = key in written and written[key] == _digest(old.get(key))
        is_same = key in new and new[key] == old.get(key)
        if is_same or not is_ours:
            blocks.append(block if block.endswith("\n") or not block else f"{block}\n")
        elif key in new:
            blocks.append(head_of({key: new[key]}))

    # One that we wrote and that is gone was taken out by hand.
    added = {key: value for key, value in new.items() if key not in old and key not in written}
    return "".join(blocks) + (head_of(added) if added else "")


def _values(head: str) -> dict[str, object]:
    try:
        content = yaml.safe_load(head)
    except yaml.YAMLError:
        raise UserError(
            "README.md on the hub: the metadata between its two lines of --- is no YAML; mend it "
            "there, and give the same command again"
        ) from None
    return content if isinstance(content, dict) else {}


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
