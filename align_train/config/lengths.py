"""Lengths in several units: the setting that the command line gives makes the others null."""

from __future__ import annotations

from collections.abc import Sequence

from align_train.config.schema import LENGTHS
from align_train.errors import UserError

# Of the scheduler: in pairs -> in steps. A schedule of a user's own may have the latter alone.
_OF_SCHEDULE = {
    "scheduler.warmup_pairs": "scheduler.warmup_steps",
    "scheduler.decay_pairs": "scheduler.decay_steps",
    "scheduler.every_pairs": "scheduler.every",
}


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
    # Commands other than training and its plan have no length.
    if not set(LENGTHS) <= getattr(schema, "__dataclass_fields__", {}).keys():
        return list(words)

    one = _with_one_of(LENGTHS, list(words))
    for in_pairs, in_steps in _OF_SCHEDULE.items():
        if any(_key(word) == in_pairs for word in one):
            one = _with_one_of((in_pairs, in_steps), one)
    return one


def _with_one_of(keys: Sequence[str], words: list[str]) -> list[str]:
    """Makes all of these null but the one that is given; nothing if none is."""
    named: dict[str, str] = {}
    for word in words:
        if (key := _key(word)) in keys:
            named[key] = word

    given = [key for key, word in named.items() if not word.endswith("=null")]
    if len(given) > 1:
        of_what = "the run" if keys is LENGTHS else "the same"
        raise UserError(
            f"{', '.join(named[key] for key in given)}: each of them gives the length of "
            f"{of_what}; leave all but one out"
        )
    if not given:
        return words

    # Not at the end: options may follow.
    place = words.index(named[given[0]]) + 1
    nulls = [f"{key}=null" for key in keys if key not in named]
    return [*words[:place], *nulls, *words[place:]]


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")
