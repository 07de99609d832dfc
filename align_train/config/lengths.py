"""The length of a run: the setting that the command line gives makes the others null."""

from __future__ import annotations

from collections.abc import Sequence

from align_train.config.schema import LENGTHS
from align_train.errors import UserError


def with_one_length(words: Sequence[str], schema: type) -> list[str]:
    """Makes the other lengths null, which have defaults in YAML.

    Args:
        words: A command line, or its overrides.
        schema: The dataclass of the settings.

    Returns:
        The words, and others behind the one that gives the length.

    Raises:
        UserError: Two of them are given.
    """
    named: dict[str, str] = {}
    if set(LENGTHS) <= getattr(schema, "__dataclass_fields__", {}).keys():
        named = {key: word for word in words if (key := _key(word)) in LENGTHS}

    given = [key for key, word in named.items() if not word.endswith("=null")]
    if len(given) > 1:
        raise UserError(
            f"{', '.join(named[key] for key in given)}: each of them gives the length of the run; "
            f"leave all but one out"
        )
    if not given:
        return list(words)

    # Not at the end: options may follow.
    place = list(words).index(named[given[0]]) + 1
    nulls = [f"{key}=null" for key in LENGTHS if key not in named]
    return [*words[:place], *nulls, *words[place:]]


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")
