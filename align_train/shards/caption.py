"""Where the texts of a pair lie, and how they are read: in text members, or in fields of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from align_train.errors import UserError, shown

# Characters. More than a tower reads: a book as an alt text must not cost seconds.
_LONGEST_TEXT = 8192

# They stand in place of the index of a pair's text member.
NO_TEXT = -1
SECOND = -2


@dataclass(frozen=True)
class TextPlace:
    """One place of a pair's texts: a text member (`txt`), or a field of JSON (`json:caption`).

    Attributes:
        extension: The member's, without the key and its dot: `txt`, `caption.txt`, `json`.
        field: Of a JSON member, the field: its name, or names joined by dots, which lead through
            objects and lists of objects (`sentences.raw`). Empty: the member's whole value. None: a
            text member.
    """

    extension: str
    field: str | None = None

    def __str__(self) -> str:
        return f"{self.extension}:{self.field}" if self.field else self.extension

    def values(self, member: bytes) -> list[object]:
        """The values that a pair has there, of any type.

        Args:
            member: The bytes of the pair's member.

        Returns:
            One value, or all items of a list.

        Raises:
            ValueError: The member cannot be read.
        """
        if self.field is None:
            # Notepad begins a text with a byte order mark, which utf-8-sig skips.
            return [member.decode("utf-8-sig")]

        record = parse_json(member)
        return _items(record) if not self.field else values_at(record, self.field.split("."))

    def read(self, member: bytes) -> list[str]:
        """The texts that a pair has there, stripped, none of them empty.

        Args:
            member: The bytes of the pair's member.

        Returns:
            At least one text, each of at most 8,192 characters.

        Raises:
            ValueError: The pair has no text there; says why.
        """
        texts = texts_of(self.values(member))
        if not texts:
            raise ValueError(f"no text in {self}")
        return texts


@dataclass(frozen=True)
class CaptionSource:
    """Where the texts of pairs lie: the setting `data.caption`, one place or several.

    A place may hold one text or a list of texts. Each visit of a pair draws one of the places in
    which the pair has texts, then one of these texts.

    Attributes:
        places: At least one.
        weights: How often each place is drawn, as shares of their sum; None: all alike.
    """

    places: tuple[TextPlace, ...]
    weights: tuple[float, ...] | None = None

    # What to do about a tar without texts there; empty: name the places where it has some.
    fix: ClassVar[str] = ""

    def __str__(self) -> str:
        spelled = list(map(str, self.places))
        return spelled[0] if len(spelled) == 1 else f"[{','.join(spelled)}]"

    @classmethod
    def parse(
        cls,
        setting: str | Sequence[str],
        weights: Sequence[float] | None = None,
        *,
        key: str = "data.caption",
    ) -> CaptionSource:
        """Reads the setting `data.caption`.

        Args:
            setting: `MEMBER` or `JSON_MEMBER:FIELD`, or a list of these.
            weights: One for each item of the list; None: all alike.
            key: The setting that errors name.

        Returns:
            The source.

        Raises:
            UserError: The setting is none of these, or the weights do not fit it.
        """
        items = [setting] if isinstance(setting, str) else list(setting)
        if not items:
            raise UserError(f"{key}=[]: expected a member such as txt, or json:FIELD")
        places = tuple(_place(item, key) for item in items)
        if len(set(places)) < len(places):
            raise UserError(f"{key}={list(map(str, places))}: a place stands there twice")

        if weights is None:
            return cls(places)
        if len(weights) != len(places) or not all(map(_is_weight, weights)):
            raise UserError(
                f"{key}_weights={list(weights)}: expected a number above 0 for each item of {key}, "
                f"which has {len(places)}"
            )
        return cls(places, tuple(weights))

    @classmethod
    def parse_or_none(cls, setting: str | Sequence[str], *, key: str) -> CaptionSource:
        """As `parse`, but an empty list is taken: images without texts."""
        return cls.parse(setting, key=key) if setting != [] else NO_CAPTIONS

    @property
    def setting(self) -> str | list[str]:
        """The value of `data.caption`; `[]`: there are none."""
        spelled = list(map(str, self.places))
        return spelled[0] if len(spelled) == 1 else spelled

    @property
    def members(self) -> str:
        """The members in which texts are looked for, as errors name them."""
        return ", ".join(dict.fromkeys(f".{place.extension}" for place in self.places))

    def read(self, member: bytes, place: int = 0) -> list[str]:
        """The texts of a pair in one place; see `TextPlace.read`.

        Args:
            member: The bytes of the pair's member.
            place: The index of the place.

        Raises:
            ValueError: The pair has no text there; says why.
        """
        return self.places[place].read(member)


NO_CAPTIONS = CaptionSource(())
"""Of images that are read without a text."""


def _place(item: object, key: str) -> TextPlace:
    if isinstance(item, str):
        member, colon, field = item.partition(":")
        # In lower case, as `members.split` gives the extensions of a tar.
        extension = member.removeprefix(".").lower()
        is_json = extension.rpartition(".")[2] == "json"
        if extension and "/" not in extension and (field or not colon) and (is_json or not colon):
            return TextPlace(extension, field if is_json else None)
    raise UserError(f"{key}={shown(item)!r}: expected a text member such as 'txt', or 'json:FIELD'")


def _is_weight(weight: object) -> bool:
    return isinstance(weight, int | float) and 0 < weight < math.inf


def values_at(record: object, names: Sequence[str]) -> list[object]:
    """The values of a field, wherever objects and lists of objects lead to it.

    Args:
        record: A JSON value.
        names: The field's names, outermost first.

    Returns:
        Its value in each object that has it; all items of a list. None stands for no value.
    """
    if not names:
        return _items(record)

    found: list[object] = []
    for item in _items(record):
        if not isinstance(item, dict):
            continue
        # A name may have dots of its own, so that the longest one that is there counts.
        for length in range(len(names), 0, -1):
            name = ".".join(names[:length])
            if name in item:
                found += values_at(item[name], names[length:])
                break
    return found


def texts_of(values: Sequence[object]) -> list[str]:
    """The texts among some values, stripped, cut at 8,192 characters, and none of them empty."""
    texts = []
    for value in values:
        # JSON can spell half a letter, which would fail wherever the text is written.
        if isinstance(value, str) and is_unicode(value):
            texts.append(value[:_LONGEST_TEXT].strip())
    return [text for text in texts if text]


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def parse_json(member: bytes) -> object:
    """Parses JSON from an untrusted member.

    Args:
        member: UTF-8.

    Returns:
        Any JSON value.

    Raises:
        ValueError: It is no JSON, or is nested too deeply for the parser.
    """
    try:
        value: object = json.loads(member)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    return value


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON may spell half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
