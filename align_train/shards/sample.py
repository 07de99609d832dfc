"""What the first pairs of a tar hold: members, fields of JSON, and the texts in them.

Price: a hundred pairs' texts and JSON are read, and of other members the first kilobyte.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from align_train.shards.caption import CaptionSource, TextPlace, parse_json, texts_of
from align_train.shards.image_kind import image_kind
from align_train.shards.members import ANY, Members, MemberTable
from align_train.shards.tar_index import load_index

PAIRS = 100  # of a tar that are looked at

# Bytes. A longer JSON is not looked into; of another member its beginning shows what it is.
_LONGEST_JSON = 2**20
_HEAD = 2**10

# Of a JSON member: how deep objects lie in each other, and how many fields are looked at.
_DEEPEST = 4
_MOST_FIELDS = 100


@dataclass(frozen=True)
class Value:
    """A member, or a field of a JSON member.

    Attributes:
        kind: Such as `text`, `list of texts`, `number`, `image`, `binary`.
        texts: The texts in it.
        example: One value, as a text; empty for what is no text.
    """

    kind: str
    texts: list[str] = field(default_factory=list)
    example: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether it is null, or a text or list without anything in it."""
        return self.kind in ("null", "empty list") or (self.kind == "text" and not self.texts)


@dataclass(frozen=True)
class SampledPair:
    """The members of one key.

    Attributes:
        key: The key.
        image: The extension of its image; None: it has none.
        members: By extension.
        fields: Of JSON members, by the name that `data.caption` takes, such as `json:a.b`.
    """

    key: str
    image: str | None
    members: dict[str, Value]
    fields: dict[str, Value]

    def texts(self, place: object) -> list[str]:
        """The texts in a place, as `data.caption` names it; none if there are none."""
        value = self.value(str(place))
        return value.texts if value else []

    def value(self, place: str) -> Value | None:
        """The field or member of a place; None if the pair has none."""
        return self.fields.get(place) or self.members.get(place)


def sample(path: Path, members: Members = ANY, most: int = PAIRS) -> list[SampledPair]:
    """Reads the first pairs of a tar.

    Args:
        path: The tar.
        members: How its members make pairs.
        most: Keys to read.

    Returns:
        The pairs; none of a tar that cannot be read.

    Raises:
        OSError: The file cannot be read.
    """
    index = load_index(path)
    table = MemberTable(index, members)
    images = set(table.images(CaptionSource(())))
    of_key: dict[bytes, list[int]] = {}
    for member, key in enumerate(table.keys):
        # All members of the first keys: members of a key need not lie side by side.
        if key in of_key or len(of_key) < most:
            of_key.setdefault(key, []).append(member)

    pairs = []
    with path.open("rb", buffering=0) as file:
        for key, own in of_key.items():
            pair = SampledPair(key.decode("utf-8", "replace"), _image(table, own, images), {}, {})
            for member in own:
                extension = table.extensions[member].decode("utf-8", "replace")
                size, offset = int(index.sizes[member]), int(index.offsets[member])
                is_json = extension.rpartition(".")[2] == "json" and size <= _LONGEST_JSON
                wanted = size if is_json else min(size, _HEAD)
                content = os.pread(file.fileno(), wanted, offset) if size > 0 else b""
                # A page of a website may be called 0.jpg.
                is_named = member in images and image_kind(content) is not None
                if is_named or index.looks[member]:
                    pair.members[extension] = Value("image")
                elif is_json:
                    pair.members[extension] = _add_fields(extension, content, pair.fields)
                else:
                    pair.members[extension] = _value_of_member(content)
            pairs.append(pair)
    return pairs


def _image(table: MemberTable, own: Sequence[int], images: set[int]) -> str | None:
    extensions = [table.extensions[member] for member in own if member in images]
    return extensions[0].decode("utf-8", "replace") if extensions else None


def _value_of_member(content: bytes) -> Value:
    """A member that is neither image nor JSON: a text, if its beginning is one."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The last letter may be cut through.
        if len(content) < _HEAD or error.start < len(content) - 3:
            return Value("binary")
        text = content[: error.start].decode("utf-8-sig")
    # UTF-8 allows a zero byte, and no text has one.
    if "\0" in text:
        return Value("binary")
    return Value("text", texts_of([text]), text)


def _add_fields(extension: str, content: bytes, fields: dict[str, Value]) -> Value:
    """Adds the fields of a JSON member; returns the member itself."""
    try:
        record = parse_json(content)
    except ValueError:
        return Value("broken JSON")
    items = record if isinstance(record, list) else [record]
    objects = [item for item in items if isinstance(item, dict)]
    if not objects:
        return _value_of_field([record])

    found: dict[str, list[object]] = {}
    for item in objects:
        _walk(item, "", 0, found)
    for name, values in found.items():
        fields[str(TextPlace(extension, name))] = _value_of_field(values)
    return Value("JSON" if isinstance(record, dict) else "list of objects")


def _walk(
    record: dict[str, object], prefix: str, depth: int, found: dict[str, list[object]]
) -> None:
    """Collects the values of fields, by the names that lead to them."""
    for name, value in record.items():
        path = f"{prefix}{name}"
        inner = value if isinstance(value, list) else [value]
        objects = [item for item in inner if isinstance(item, dict)]
        if objects and depth < _DEEPEST:
            for item in objects:
                _walk(item, f"{path}.", depth + 1, found)
        elif path in found or len(found) < _MOST_FIELDS:
            found.setdefault(path, []).append(value)


def _value_of_field(values: list[object]) -> Value:
    """A field, of which a list of objects may give several values."""
    is_list = len(values) > 1 or isinstance(values[0], list)
    items: list[object] = []
    for value in values:
        items += value if isinstance(value, list) else [value]

    kinds = sorted({_kind(item) for item in items if item is not None})
    kind = " or ".join(kinds) or "null"
    if is_list:
        kind = f"list of {' or '.join(f'{name}s' for name in kinds)}" if kinds else "empty list"
    example = next((str(item) for item in items if isinstance(item, str | int | float)), "")
    return Value(kind, texts_of(items), example)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    names = {str: "text", int: "number", float: "number", dict: "object", list: "list"}
    return names.get(type(value), "value")


def extensions(pairs: Iterable[SampledPair]) -> list[str]:
    """The extensions of members, in the order in which they come."""
    return list(dict.fromkeys(chain.from_iterable(pair.members for pair in pairs)))


def fields(pairs: Iterable[SampledPair]) -> list[str]:
    """The fields of JSON members, in the order in which they come."""
    return list(dict.fromkeys(chain.from_iterable(pair.fields for pair in pairs)))
