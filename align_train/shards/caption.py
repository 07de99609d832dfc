"""Where the text of a pair lies, and how it is read: in a text member, or in a field of JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass

from align_train.errors import UserError

# Characters. More than a tower reads: a book as an alt text must not cost seconds.
_LONGEST_TEXT = 8192

# They stand in place of the index of a pair's text member.
NO_TEXT = -1
SECOND = -2


@dataclass(frozen=True)
class CaptionSource:
    """Where the text of a pair lies: a text member (`txt`), or a field of JSON (`json:caption`).

    A field may hold one text or a list of texts, of which each visit draws one.

    Attributes:
        extension: The member's extension, without the dot.
        field: The field of the JSON member; None for a text member.
    """

    extension: str
    field: str | None

    def __str__(self) -> str:
        return f"{self.extension}:{self.field}" if self.field else self.extension

    @classmethod
    def parse(cls, text: str) -> CaptionSource:
        """Reads the setting `data.caption`.

        Args:
            text: `EXTENSION`, or `json:FIELD`.

        Returns:
            The source.

        Raises:
            UserError: The text is neither.
        """
        extension, _, field = text.partition(":")

        if not extension or (extension == "json") != bool(field):
            raise UserError(
                f"data.caption={text!r}: expected a text member such as 'txt', or 'json:FIELD'"
            )
        return cls(extension, field or None)

    def values(self, member: bytes) -> list[object]:
        """The values that a pair has there, of any type.

        Args:
            member: The bytes of the pair's text member.

        Returns:
            One value, or all items of a list.

        Raises:
            ValueError: The member cannot be read.
        """
        if self.field is None:
            # Notepad begins a text with a byte order mark, which utf-8-sig skips.
            return [member.decode("utf-8-sig")]

        record = parse_json(member)
        value = record.get(self.field) if isinstance(record, dict) else None
        return value if isinstance(value, list) else [value]

    def read(self, member: bytes) -> list[str]:
        """The texts of a pair, stripped, none of them empty.

        Args:
            member: The bytes of the pair's text member.

        Returns:
            At least one text, each of at most 8,192 characters.

        Raises:
            ValueError: The pair has no text; says why.
        """
        texts = []
        for value in self.values(member):
            if not isinstance(value, str) or not is_unicode(value):
                continue
            text = value[:_LONGEST_TEXT].strip()
            if text:
                texts.append(text)

        if not texts:
            raise ValueError(f"no text in {self}")
        return texts


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
