r"""The paper's filters (arXiv 2102.05918, section 3.1), each written once, in Ibis.

A rule says which rows it drops. Some rules look at a row alone. Others look at the whole table: the
number of texts of an image, the number of images of a text, the frequent unigrams and bigrams, the
hashes near those of evaluation images. Those sets are made first, each a table by itself
(`data/filter/statistics.py`). Then one pass gives each failing row a bit mask of its failed rules.

Engines must agree to the row. Whatever they do differently is spelt out here: white space (a
literal class: `\s` is ASCII in one engine and not in another), lower case (`LATER_CAPITALS`), and
that the split of a stripped text has no empty tokens. Nothing depends on a hash or on the order of
equals. A null never passes: a row without a width fails the rules on sizes, and one without a text
has no unigrams.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import ibis
from ibis.expr.types import BooleanValue, Table

from align_train.errors import UserError

from .settings import Rules

_HASH_BITS = 64
_FARTHEST = 16  # bits that a near-duplicate may differ in

# The columns that each rule reads.
COLUMNS_OF: Mapping[str, tuple[str, ...]] = {
    "short_side": ("width", "height"),
    "aspect_ratio": ("width", "height"),
    "nsfw": ("nsfw",),
    "texts_per_image": ("image", "text"),
    "images_per_text": ("text", "image"),
    "unigrams": ("text",),
    "rare_tokens": ("text",),
    "near_duplicates": ("phash",),
}

NAMES = tuple(COLUMNS_OF)
UIDS = "uids"  # after these, and before the rules on columns (`column_rules.py`)

# The least number of each rule that has a single one.
_LEAST: Mapping[str, int] = {
    "short_side": 0,
    "aspect_ratio": 1,
    "nsfw": 0,
    "texts_per_image": 0,
    "images_per_text": 0,
    "rare_tokens": 1,
}

# These go into reports, whose bytes stay as they are: hence "picture".
_DESCRIPTIONS: Mapping[str, str] = {
    "short_side": "the shorter side above {:g} pixels",
    "aspect_ratio": "the longer side below {:g} times the shorter",
    "nsfw": "a score of at most {:g}",
    "texts_per_image": "an image with at most {:,} texts",
    "images_per_text": "a text with at most {:,} images",
    "rare_tokens": "only unigrams and bigrams among the {:,} most frequent",
}


def bits(names: Sequence[str]) -> dict[str, int]:
    """The bit of each rule in the masks of failing rows.

    Args:
        names: The applied rules, in their order.
    """
    others = [name for name in names if name not in NAMES]
    # A rule that is off keeps its bit, so that the bits of the others do not depend on it.
    every = [*NAMES, *others]
    return {name: 1 << every.index(name) for name in names}


def check(rules: Rules) -> None:
    """Refuses numbers that no rule can have.

    Raises:
        UserError: Names the rule.
    """
    for name, least in _LEAST.items():
        number = getattr(rules, name)
        # `not >=` refuses NaN too.
        if number is not None and not number >= least:
            raise UserError(
                f"rules.{name}={number}: expected at least {least}, or null (the rule is off)"
            )

    span = rules.unigrams
    if span is not None and not (len(span) == 2 and 0 <= span[0] <= span[1]):
        raise UserError(
            f"rules.unigrams={list(span)}: expected [fewest,most], e.g. [3,20], or null (the rule "
            f"is off)"
        )

    distance = rules.near_duplicates.distance
    if not 0 <= distance <= _FARTHEST:
        raise UserError(
            f"rules.near_duplicates.distance={distance}: expected 0 to {_FARTHEST} of a hash's "
            f"{_HASH_BITS} bits"
        )


def active(rules: Rules) -> list[str]:
    """The names of the rules in `NAMES` that are on."""
    on = [name for name in NAMES if getattr(rules, name) is not None]
    if rules.near_duplicates.of is None:
        on.remove("near_duplicates")
    return on


def described(name: str, rules: Rules) -> str:
    """Says in words which rows pass a rule."""
    if name == "unigrams":
        fewest, most = rules.unigrams or (0, 0)
        return f"{fewest} to {most} unigrams"

    if name == "near_duplicates":
        near = rules.near_duplicates
        return f"more than {near.distance} bits from every image of {near.of}"

    if name == UIDS:
        return f"a uid that is listed in {rules.uids.of}"

    return _DESCRIPTIONS[name].format(getattr(rules, name))


def alone(name: str, rules: Rules) -> Callable[[Table], BooleanValue] | None:
    """The test of a rule that looks at a row alone; None for rules that look at the whole table.

    The rule `unigrams` wants the column of `with_number_of_unigrams`.
    """
    fewest, most = rules.unigrams or (0, 0)

    # least() and greatest() would pass over a null, so each side is compared by itself.
    tests: dict[str, Callable[[Table], BooleanValue]] = {
        "short_side": lambda rows: (
            (rows.width > rules.short_side) & (rows.height > rules.short_side)
        ),
        "aspect_ratio": lambda rows: (
            (rows.width < rows.height * rules.aspect_ratio)
            & (rows.height < rows.width * rules.aspect_ratio)
        ),
        "nsfw": lambda rows: rows.nsfw <= rules.nsfw,
        "unigrams": lambda rows: rows.unigrams.between(fewest, most),
    }
    return tests.get(name)


# The white space of str.split, except the space, as a regular expression's class. It stands in
# ranges: a vertical tab or form feed by itself would reach Spark as the letter v or f, and so do
# those that Ibis's own strip() would take off.
_SPACES = "\t-\r\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

# Capitals that engines lower-case differently: İ (one letter or two), and those new in Unicode 16.
LATER_CAPITALS = {
    "İ": "i",
    "\u1c89": "\u1c8a",
    "\ua7cb": "\u0264",
    "\ua7cc": "\ua7cd",
    "\ua7da": "\ua7db",
    "\ua7dc": "\u019b",
    **{chr(capital): chr(capital + 32) for capital in range(0x10D50, 0x10D66)},
}


def with_unigrams(rows: Table) -> Table:
    """Adds a column `words`: the lower-cased words of the text, split as Python's `str.split` does.

    Lower case goes letter by letter: İ becomes i, and a final ς becomes σ, as elsewhere. An empty
    text gives [""].
    """
    # Each step is a column of its own: engines would compute it anew for each mention otherwise.
    capitals = "".join(LATER_CAPITALS)
    becomes = "".join(LATER_CAPITALS.values())
    rows = rows.mutate(words=rows.text.fill_null(""))
    has_capitals = rows.words.re_search(f"[{capitals}]")
    translated = rows.words.translate(capitals, becomes)
    rows = rows.mutate(words=ibis.ifelse(has_capitals, translated, rows.words))
    rows = rows.mutate(words=rows.words.lower().replace("ς", "σ"))

    # Few texts have odd spaces, and a replacement costs ten times as much as the search.
    odd = rows.words.re_search(f"[{_SPACES}]|  |^ | $")
    even = rows.words.re_replace(f"[ {_SPACES}]+", " ").re_replace("^ | $", "")
    rows = rows.mutate(words=ibis.ifelse(odd, even, rows.words))
    return rows.mutate(words=rows.words.split(" "))


def with_number_of_unigrams(rows: Table) -> Table:
    """Adds a column `unigrams`: the number of words of the text."""
    rows = with_unigrams(rows)
    is_empty = rows.words[0] == ""
    return rows.mutate(unigrams=ibis.ifelse(is_empty, 0, rows.words.length())).drop("words")


def tokens(rows: Table) -> Table:
    """Lists (row, token) for every unigram and bigram of every text.

    A bigram is two words with a space between them, so that none is a unigram too.
    """
    words = with_unigrams(rows.select("row", "text"))

    # A text of n words has n + (n - 1) tokens. They are numbered because a list of bigrams would
    # take a lambda, in which Spark splits the text anew for every word.
    numbered = words.mutate(at=ibis.range(0, 2 * words.words.length() - 1).unnest())
    first = numbered.at - numbered.words.length()  # of a bigram; below 0 for unigrams
    bigram = numbered.words[first] + " " + numbered.words[first + 1]
    token = ibis.ifelse(first < 0, numbered.words[numbered.at], bigram)

    listed = numbered.select("row", token=token)
    return listed.filter(listed.token != "")
