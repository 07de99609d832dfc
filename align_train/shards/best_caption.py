"""The places that may hold the captions of pairs, by their names and by what sampled pairs have.

`found_caption.py` asks for the place of a value of `data.shards`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from align_train.shards.sample import SampledPair, extensions, fields
from align_train.shards.usual_names import FIELDS, is_usual_json, is_usual_member, numbered

MOST_PAIRS = 0.5  # the share of pairs that have texts where captions are


def best_caption(pairs: Sequence[SampledPair], *, labels: bool = False) -> list[str]:
    """The places of `data.caption` that fit most pairs.

    Args:
        pairs: Sampled pairs.
        labels: Whether labels are looked for.

    Returns:
        `json:captions`, `txt`, numbered members (several places), another text member, or a field
        with a usual name; empty if there is none.
    """
    whole = with_image(pairs)
    best: list[str] = []
    best_share = 0.0
    for places in [["cls"], ["txt"]] if labels else _choices(whole):
        # The likeliest choice comes first, so the first one that most pairs have is taken.
        share = share_with(whole, places)
        if share >= MOST_PAIRS:
            return places
        if share > best_share:
            best = places
            best_share = share
    return best


def empty_captions(pairs: Sequence[SampledPair]) -> list[str]:
    """The usual places that pairs have, but without a value: null, or an empty list or text."""
    whole = with_image(pairs)
    empty = []
    for places in _choices(whole):
        for place in places:
            values = [pair.value(place) for pair in whole]
            if any(values) and all(value is None or value.is_empty for value in values):
                empty.append(place)
    return empty


def with_image(pairs: Sequence[SampledPair]) -> list[SampledPair]:
    """The pairs that have an image."""
    return [pair for pair in pairs if pair.image is not None]


def share_with(pairs: Sequence[SampledPair], places: Sequence[str]) -> float:
    """The share of pairs that have a text in one of the places."""
    return fmean(any(map(pair.texts, places)) for pair in pairs) if pairs else 0.0


def _choices(pairs: Sequence[SampledPair]) -> Iterator[list[str]]:
    """Places that may hold captions, the likeliest first; several are a value together."""
    members = extensions(pairs)
    yield ["json:captions"]
    yield ["txt"]
    yield from numbered_places(pairs, members)

    for member in members:
        # Of JSON the whole member: it is a list of captions, if it is no object.
        is_usual = is_usual_member(member) or is_usual_json(member)
        if is_usual and member != "txt" and _is_shared(pairs, member):
            yield [member]

    found = fields(pairs)
    for name in FIELDS:
        for place in found:
            _, _, field = place.partition(":")
            if field == name and place != "json:captions":
                yield [place]
    yield from numbered_places(pairs, found)


def numbered_places(pairs: Sequence[SampledPair], places: Sequence[str]) -> Iterator[list[str]]:
    """Finds members, or fields of one member, whose usual names differ by a number only.

    Args:
        pairs: Sampled pairs.
        places: All members, or all fields, of these pairs.

    Yields:
        Places that belong together.
    """
    # Fields by their member; all members together.
    names_of: dict[str, list[str]] = {}
    for place in places:
        member, colon, field = place.partition(":")
        if colon:
            names_of.setdefault(f"{member}:", []).append(field)
        else:
            names_of.setdefault("", []).append(member)

    for member, names in names_of.items():
        for family in numbered(names):
            together = [f"{member}{name}" for name in family]
            # Some pairs may have fewer texts than others.
            if any(_is_shared(pairs, place) for place in together):
                yield together


def _is_shared(pairs: Sequence[SampledPair], place: str) -> bool:
    """Whether a place is no part of a name: as `0.txt` of `img.0.txt`, which few names share."""
    is_field = ":" in place
    has_dot = "." in place
    return is_field or not has_dot or share_with(pairs, [place]) >= MOST_PAIRS
