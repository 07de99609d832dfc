"""Lengths in several units, of which one counts: the others are null."""

from __future__ import annotations

from collections.abc import Sequence

from align_train.config.schema import LENGTHS, TrainSettings
from align_train.errors import UserError

# Of the scheduler: in pairs -> in steps. A schedule of a user's own may have the latter alone.
_OF_SCHEDULE = {
    "scheduler.warmup_pairs": "scheduler.warmup_steps",
    "scheduler.decay_pairs": "scheduler.decay_steps",
    "scheduler.every_pairs": "scheduler.every",
}

_MOST_EPOCHS = 1e9  # a larger number is a mistake


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


def check_length(settings: TrainSettings) -> None:
    """Checks that exactly one setting says how long the run is.

    Args:
        settings: The run's settings.

    Raises:
        UserError: None or several do, or the number of epochs makes no sense.
    """
    given = [key for key in LENGTHS if getattr(settings, key) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise UserError(
            f"{', '.join(LENGTHS)}: exactly one of them says how long the run is, here {found} "
            f"is set; set one, and the others to null"
        )

    epochs = settings.epochs
    if epochs is None:
        return
    # `not <` refuses NaN too.
    if not 0 < epochs < _MOST_EPOCHS:
        raise UserError(f"epochs={epochs:g}: expected more than 0, e.g. 3 or 0.5")
    if settings.data.get("weights") is not None:
        raise UserError(
            f"epochs={epochs:g}: data.weights mixes sources that have epochs of their own; give "
            f"max_pairs=… or max_steps=… instead"
        )
