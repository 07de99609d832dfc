"""The paper's filters (arXiv 2102.05918, section 3.1), each written once, in Ibis, for every engine.

A rule says which rows it drops. Some look at a row alone; others at the whole table: how many alt-texts a picture has, how many
pictures a text has, which unigrams and bigrams are frequent, which hashes are near those of evaluation pictures. Those sets are
made first, each a table by itself (`data/sets.py`); then one pass gives each row that fails a bit mask of the rules it fails.

Engines must agree to the row. What they would do differently is spelt out here: what is white space (a literal class: `\s` is
ASCII in one engine and not in another), how a text is lower-cased (`LATER_CAPITALS`), that a split of a text that is stripped
has no empty tokens, that nothing is decided by a hash or by the order of equals. A null is never good enough: a row without a
width fails the rules on sizes, one without a text has no unigrams.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import ibis
from ibis.expr.types import BooleanValue, Table

from align_train.errors import UserError


@dataclass
class NearDuplicates:
    """of: evaluation pictures (a folder, shards, or hashes); distance: bits that a near-duplicate may differ in."""

    of: str | None = None
    distance: int = 4


@dataclass
class Rules:
    """Each rule's number, as in the paper; null: the rule is off. Field by field in the order in which rules are applied."""

    short_side: float | None = 200
    aspect_ratio: float | None = 3
    nsfw: float | None = 0.5
    texts_per_image: int | None = 1000
    images_per_text: int | None = 10
    unigrams: list[int] | None = field(default_factory=lambda: [3, 20])
    rare_tokens: int | None = 100_000_000
    near_duplicates: NearDuplicates = field(default_factory=NearDuplicates)


NAMES = tuple(Rules.__dataclass_fields__)  # a rule's bit in a mask is its place here


# What a rule needs to know of a row.
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


def check(rules: Rules) -> None:
    """UserError names the rule whose number cannot be."""
    for name in (
        "short_side",
        "aspect_ratio",
        "nsfw",
        "texts_per_image",
        "images_per_text",
        "rare_tokens",
    ):
        number = getattr(rules, name)
        least = 1 if name in ("aspect_ratio", "rare_tokens") else 0
        if number is not None and not number >= least:
            raise UserError(
                f"rules.{name}={number}: expected at least {least}, or null (the rule is off)"
            )
    if rules.unigrams is not None and not (
        len(rules.unigrams) == 2 and 0 <= rules.unigrams[0] <= rules.unigrams[1]
    ):
        raise UserError(
            f"rules.unigrams={list(rules.unigrams)}: expected [fewest,most], e.g. [3,20], or null (the rule is off)"
        )
    if not 0 <= rules.near_duplicates.distance <= 16:
        raise UserError(
            f"rules.near_duplicates.distance={rules.near_duplicates.distance}: expected 0 to 16 of a hash's 64 bits"
        )


def active(rules: Rules) -> list[str]:
    """The names of the rules that are on."""
    off = [name for name in NAMES if getattr(rules, name) is None]
    off += ["near_duplicates"] if rules.near_duplicates.of is None else []
    return [name for name in NAMES if name not in off]


def described(name: str, rules: Rules) -> str:
    """What a row must be to pass, in words."""
    if name == "unigrams":
        fewest, most = rules.unigrams or (0, 0)
        return f"{fewest} to {most} unigrams"
    if name == "near_duplicates":
        return f"more than {rules.near_duplicates.distance} bits from every picture of {rules.near_duplicates.of}"
    number = getattr(rules, name)
    words = {
        "short_side": "the shorter side above {:g} pixels",
        "aspect_ratio": "the longer side below {:g} times the shorter",
        "nsfw": "a score of at most {:g}",
        "texts_per_image": "a picture with at most {:,} texts",
        "images_per_text": "a text with at most {:,} pictures",
        "rare_tokens": "only unigrams and bigrams among the {:,} most frequent",
    }
    return words[name].format(number)


# --- what a row alone tells -------------------------------------------------------------------------------------------


def alone(name: str, rules: Rules) -> Callable[[Table], BooleanValue] | None:
    """Whether a row passes a rule that looks at nothing else; None for rules that look at the whole table."""
    passes: dict[str, Callable[[Table], BooleanValue]] = {
        # Not by least() and greatest(), which pass over a null.
        "short_side": lambda rows: (
            (rows.width > rules.short_side) & (rows.height > rules.short_side)
        ),
        "aspect_ratio": lambda rows: (
            (rows.width < rows.height * rules.aspect_ratio)
            & (rows.height < rows.width * rules.aspect_ratio)
        ),
        "nsfw": lambda rows: rows.nsfw <= rules.nsfw,
        "unigrams": lambda rows: rows.unigrams.between(*(rules.unigrams or (0, 0))),
    }
    return passes.get(name)


# What str.split takes for white space, but the space, as a regular expression's class. In ranges: a vertical tab or form feed
# by itself would reach Spark as the letter v or f (and so do those that Ibis's own strip() would take off).
_SPACES = "\t-\r\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


# Capitals that not every engine lower-cases alike: İ (one letter or two), and what Unicode 16 added.
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
    """The rows with a column `words`: the lower-cased words of the text, split at white space as Python's `str.split` does.

    Lower case goes letter by letter: İ is i, and the ς at a word's end is σ, as it is elsewhere. Of an empty text [""]. Each
    step is a column of its own, or engines would compute it anew wherever the next one mentions it.
    """
    letters, becomes = "".join(LATER_CAPITALS), "".join(LATER_CAPITALS.values())
    rows = rows.mutate(words=rows.text.fill_null(""))
    rows = rows.mutate(
        words=ibis.ifelse(
            rows.words.re_search(f"[{letters}]"), rows.words.translate(letters, becomes), rows.words
        )
    )
    rows = rows.mutate(words=rows.words.lower().replace("ς", "σ"))
    odd = rows.words.re_search(
        f"[{_SPACES}]|  |^ | $"
    )  # rare; a replacement costs ten times as much as the question
    even = rows.words.re_replace(f"[ {_SPACES}]+", " ").re_replace("^ | $", "")
    rows = rows.mutate(words=ibis.ifelse(odd, even, rows.words))
    return rows.mutate(words=rows.words.split(" "))


def with_number_of_unigrams(rows: Table) -> Table:
    """The rows with a column `unigrams`."""
    rows = with_unigrams(rows)
    return rows.mutate(unigrams=ibis.ifelse(rows.words[0] == "", 0, rows.words.length())).drop(
        "words"
    )


def tokens(rows: Table) -> Table:
    """(row, token) for every unigram and bigram of every text; a bigram is two words with a space between, so no unigram.

    A text of n words has n + (n - 1) of them, numbered: a list of bigrams would want a lambda, in which Spark splits the text
    anew for every word.
    """
    words = with_unigrams(rows.select("row", "text"))
    numbered = words.mutate(at=ibis.range(0, 2 * words.words.length() - 1).unnest())
    first = numbered.at - numbered.words.length()
    bigram = numbered.words[first] + " " + numbered.words[first + 1]
    token = ibis.ifelse(first < 0, numbered.words[numbered.at], bigram)
    every = numbered.select("row", token=token)
    return every.filter(every.token != "")
