"""The filter's rules in plain Python, row by row, written from the words of the paper.

The tests compare both engines with them.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

Row = Mapping[str, Any]


def words(text: str | None) -> list[str]:
    """Lower-cased letter by letter: İ is one letter, and a word's last sigma is like any other."""
    return "".join(
        "i" if letter == "İ" else letter.lower().replace("ς", "σ") for letter in text or ""
    ).split()


def tokens(text: str | None) -> list[str]:
    found = words(text)
    return found + [f"{one} {two}" for one, two in itertools.pairwise(found)]


def dropped(
    rows: Sequence[Row], *, rare_tokens: int, probes: Sequence[int], distance: int
) -> dict[str, set[int]]:
    """The indices of the rows that each rule drops; the defaults are the numbers of the paper."""
    texts_of, images_of = defaultdict(set), defaultdict(set)
    for row in rows:
        if row["url"] is not None and row["text"] is not None:
            texts_of[row["url"]].add(row["text"])
            images_of[row["text"]].add(row["url"])
    counts = Counter(token for row in rows for token in tokens(row["text"]))
    ranked = sorted(counts.values(), reverse=True)
    least = ranked[min(rare_tokens, len(ranked)) - 1] if ranked else 0

    def fails(row: Row) -> dict[str, bool]:
        width, height, score, phash = (
            row["width"],
            row["height"],
            row["nsfw_score_opennsfw2"],
            row["image_phash"],
        )
        sized = width is not None and height is not None
        return {
            "short_side": not (sized and min(width, height) > 200),
            "aspect_ratio": not (sized and max(width, height) < 3 * min(width, height)),
            "nsfw": not (score is not None and score <= 0.5),
            "texts_per_image": len(texts_of.get(row["url"], ())) > 1000,
            "images_per_text": len(images_of.get(row["text"], ())) > 10,
            "unigrams": not 3 <= len(words(row["text"])) <= 20,
            "rare_tokens": any(counts[token] < least for token in tokens(row["text"])),
            "near_duplicates": phash is not None
            and any((int(phash, 16) ^ probe).bit_count() <= distance for probe in probes),
        }

    found: dict[str, set[int]] = defaultdict(set)
    for number, row in enumerate(rows):
        for name, failing in fails(row).items():
            if failing:
                found[name].add(number)
    return found


def column_rule_drops(
    rows: Sequence[Row],
    column: str,
    *,
    least: float | None = None,
    most: float | None = None,
    top: float | None = None,
    by: str | None = None,
) -> dict[str, set[int]]:
    """The indices of the rows that the rules on one column drop, by the rule's name.

    Of `top` as one would do it by hand: sort each group, count down, and let equals stay.
    """

    def value(row: Row) -> float | None:
        found = None if row[column] is None else float(row[column])
        return None if found is None or math.isnan(found) else found

    values = [value(row) for row in rows]
    found: dict[str, set[int]] = {}
    if least is not None:
        found["least"] = {n for n, one in enumerate(values) if one is None or one < least}
    if most is not None:
        found["most"] = {n for n, one in enumerate(values) if one is None or one > most}

    if top is not None:
        of_group: dict[Any, list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            group = row[by] if by else "all"
            if values[number] is not None and group is not None:
                of_group[group].append(number)

        kept: set[int] = set()
        for numbers in of_group.values():
            ranked = sorted(numbers, key=lambda number: values[number] or 0.0, reverse=True)
            wanted = math.ceil(Fraction(str(top)) * len(ranked))
            last = values[ranked[wanted - 1]]
            assert last is not None
            kept |= {number for number in ranked if (values[number] or 0.0) >= last}
        found["top"] = set(range(len(rows))) - kept
    return {f"columns.{column}.{bound}": dropped for bound, dropped in found.items()}
