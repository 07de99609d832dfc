"""JSON from outside: bounded in nesting, values and keys, and without NaN."""

from __future__ import annotations

import json
from typing import NoReturn

from align_train.errors import shown
from align_train.serving.refused import Refused

# Values of a body, by the characters that stand between them: an empty list takes 60 bytes of
# memory for two of the body. Texts may hold such characters, too.
_MOST_VALUES = 500_000

# Of the outermost object. pydantic makes an error for each key that it does not know: 400,000 of
# them took 6 seconds, in which nobody was answered.
_MOST_KEYS = 50


def strict_json(body: bytes) -> object:
    """Reads a body.

    Args:
        body: As it came.

    Raises:
        Refused: It is no JSON, or holds more than any question of ours.
    """
    # Counted in the bytes: once the body is parsed, the memory is taken.
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > _MOST_VALUES:
        raise Refused("the body has too many values", code=413)
    try:
        # Python's reader takes NaN and Infinity, which no other part here expects.
        value = json.loads(body, parse_constant=_no_number)
    except RecursionError:
        raise Refused("the body is nested too deeply", code=400) from None
    except ValueError as error:
        raise Refused(f"the body is no JSON: {shown(str(error))}", code=400) from None
    if isinstance(value, dict) and len(value) > _MOST_KEYS:
        raise Refused(f"the body has {len(value):,} keys; expected at most {_MOST_KEYS}")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
