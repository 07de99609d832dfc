"""The page's own question, checked before Gradio sees it.

Gradio takes values that name a file of the server (`{"path": …, "meta": …}`), or a URL, and copies
what is there into its folder. The page sends texts, numbers and images as text, and nothing else
passes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from align_train.errors import shown
from align_train.serving.refused import Refused
from align_train.serving.strict_json import strict_json

_IMAGE_KEYS = {"name", "data"}
_LONGEST_SESSION = 100  # characters


def checked_question(body: bytes, fields: Mapping[int, int]) -> bytes:
    """Checks a question, and writes it anew without what the server does not need.

    Args:
        body: As it came.
        fields: How many fields each function of the page has, by Gradio's number of it.

    Returns:
        The body for Gradio.

    Raises:
        Refused: The page sends no such question.
    """
    asked = strict_json(body)
    if not isinstance(asked, dict):
        raise Refused("the body: expected an object, as the page sends it")

    number = asked.get("fn_index")
    # Not `isinstance`, for which True is the integer 1.
    if type(number) is not int or number not in fields:
        raise Refused(f"fn_index={shown(number)}: no such function of the page; load it again")
    data = asked.get("data")
    if not isinstance(data, list) or len(data) != fields[number]:
        raise Refused(f"data: expected a list of {fields[number]} values; load the page again")
    for index, value in enumerate(data):
        _check(value, f"data[{index}]")

    # Bounded: Gradio keeps the state of each session under this name.
    session = asked.get("session_hash")
    if session is not None and (not isinstance(session, str) or len(session) > _LONGEST_SESSION):
        raise Refused(f"session_hash: expected at most {_LONGEST_SESSION} letters")
    trigger = asked.get("trigger_id")
    return json.dumps(
        {
            # These four keys alone: whatever else a client adds does not reach Gradio.
            "data": data,
            "fn_index": number,
            "session_hash": session,
            "trigger_id": trigger if type(trigger) is int else None,
        }
    ).encode()


def _check(value: object, place: str) -> None:
    """A text, a number, a list of texts, or a list of images."""
    items = value if isinstance(value, list) else [value]
    for item in items:
        if isinstance(item, float) and not math.isfinite(item):
            raise Refused(f"{place}: expected a finite number")
        if item is None or isinstance(item, str | int | float):
            continue
        if not _is_image(item):
            raise Refused(f"{place}: expected texts, numbers or images, as the page sends them")


def _is_image(item: object) -> bool:
    # Exactly these keys: one more, `path` or `meta`, would make Gradio take it for a file.
    if not isinstance(item, dict) or item.keys() != _IMAGE_KEYS:
        return False
    return all(isinstance(part, str) for part in item.values())
