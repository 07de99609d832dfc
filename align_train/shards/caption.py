from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from align_train.errors import UserError

_LONGEST_TEXT = (
    8192  # characters, more than a tower reads: a book as an alt-text must not cost seconds
)


NO_TEXT, SECOND = -1, -2  # in place of the number of a pair's text member


@dataclass(frozen=True)
class CaptionSource:
    """Where the text of a pair lies: a text member (`txt`), or a field of a JSON member (`json:caption`).

    A field may hold one text or a list of texts, of which each visit draws one.
    """

    extension: str
    field: str | None

    def __str__(self) -> str:
        return f"{self.extension}:{self.field}" if self.field else self.extension

    @classmethod
    def parse(cls, text: str) -> CaptionSource:
        extension, _, field = text.partition(":")
        if not extension or (extension == "json") != bool(field):
            raise UserError(
                f"data.caption={text!r}: expected a text member such as 'txt', or 'json:FIELD'"
            )
        return cls(extension, field or None)

    def values(self, member: bytes) -> list[Any]:
        """What a pair has there, of whatever kind; ValueError where that cannot be read."""
        if self.field is None:
            return [member.decode("utf-8")]
        record = parse_json(member)
        value = record.get(self.field) if isinstance(record, dict) else None
        return value if isinstance(value, list) else [value]

    def read(self, member: bytes) -> list[str]:
        """The texts of a pair; raises ValueError with the reason where there is none."""
        texts = [
            text[:_LONGEST_TEXT].strip()
            for text in self.values(member)
            if isinstance(text, str) and is_unicode(text)
        ]
        texts = [text for text in texts if text]
        if not texts:
            raise ValueError(f"no text in {self}")
        return texts


def parse_json(member: bytes) -> Any:
    try:
        return json.loads(member)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def is_unicode(text: str) -> bool:
    """JSON may spell half of a surrogate pair, which no encoder takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
