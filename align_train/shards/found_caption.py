"""Where the captions of shards lie, found out from their first pairs.

Whoever has shards of others does not know their members by heart. If `data.caption` is not set, a
run looks here; if pairs have more captions than it uses, it says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from statistics import fmean

from align_train.cluster.sharing import from_first
from align_train.errors import UserError, shown, shown_names
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.members import ANY, Members, prefix_of, refuse_dots
from align_train.shards.resolve import first_shards
from align_train.shards.sample import SampledPair, extensions, fields, sample
from align_train.shards.tar_index import load_index
from align_train.shards.usual_names import FIELDS, LISTS, is_usual_member, numbered

_TARS = 3  # are looked at, at most: the first ones may be empty

_MOST_PAIRS = 0.5  # the share of pairs that have texts where captions are


class NoCaption(UserError):
    """The first pairs have no images, or no texts in a place with a usual name.

    Attributes:
        pairs: Those that were looked at.
        url: Their shard.
    """

    def __init__(self, message: str, pairs: Sequence[SampledPair], url: str) -> None:
        """Takes the message of `UserError`, and the attributes."""
        super().__init__(message)
        self.pairs = pairs
        self.url = url


def found_caption(
    shards: str | Sequence[str],
    *,
    members: Members = ANY,
    cache: ShardCache,
    labels: bool = False,
    anew: bool = False,
    key: str = "data.shards",
) -> str | list[str]:
    """Finds out where the texts of shards lie. Collective.

    Args:
        shards: As `data.shards` takes them; of a list the first item is looked at.
        members: How members of the tars make pairs.
        cache: Fetches remote shards.
        labels: Whether labels are looked for: a member `cls`, or else `txt`.
        anew: As of `resolve`.
        key: The setting of the shards, for errors.

    Returns:
        The value of `data.caption`.

    Raises:
        NoCaption: There are no images or no texts in their first pairs.
        UserError: There are no shards, or the names have dots and nobody has chosen a rule of keys.
    """
    urls = first_shards(shards, _TARS, members=members, cache=cache, anew=anew, key=key)
    look = partial(_look, urls, members, cache, labels, prefix_of(key))
    return from_first(f"caption {shards} {members} {labels}", look)


def _look(
    urls: Sequence[str], members: Members, cache: ShardCache, labels: bool, prefix: str
) -> str | list[str]:
    pairs: list[SampledPair] = []
    for url in urls:
        try:
            path = cache.local(url, cache.size(url))
            refuse_dots(load_index(path), members, tar=url, prefix=prefix)
            pairs = sample(path, members)
        except OSError:
            continue  # whoever counts the pairs says why
        if any(pair.image is not None for pair in pairs):
            break

    if not pairs:
        return "txt"
    caption = best_caption(pairs, labels=labels)
    if caption is not None:
        return caption

    seen = shown_names([*(f".{extension}" for extension in extensions(pairs)), *fields(pairs)])
    if all(pair.image is None for pair in pairs):
        what = " is not set, and no member holds an image"
        if members.image is not None:
            what = f"={shown(members.image)}: no member has this extension"
        raise NoCaption(
            f"{prefix}image{what} in the first pairs of {url}; they have {seen}; give shards with "
            f"images, or {prefix}image=…",
            pairs,
            url,
        )
    raise NoCaption(
        f"{prefix}caption is not set, and the first pairs of {url} have texts neither in .txt nor "
        f"in a field of .json such as captions; they have {seen}; give {prefix}caption=…",
        pairs,
        url,
    )


def best_caption(pairs: Sequence[SampledPair], *, labels: bool = False) -> str | list[str] | None:
    """The value of `data.caption` that fits most pairs.

    Args:
        pairs: Sampled pairs.
        labels: Whether labels are looked for.

    Returns:
        The place: `json:captions`, `txt`, numbered members (a list), another text member, or a
        field with a usual name; None if there is none.
    """
    whole = [pair for pair in pairs if pair.image is not None]
    choices = [["cls"], ["txt"]] if labels else list(_choices(whole))
    best: list[str] = []
    best_share = 0.0
    for places in choices:
        share = _share(whole, places)
        if share > best_share:
            best = places
            best_share = share
        if share >= _MOST_PAIRS:
            break
    return best[0] if len(best) == 1 else best or None


def _choices(pairs: Sequence[SampledPair]) -> Iterator[list[str]]:
    """Places that may hold captions, the likeliest first; several are a value together."""
    yield ["json:captions"]
    yield ["txt"]
    yield from _numbered(pairs, extensions(pairs))
    for extension in extensions(pairs):
        # Of JSON the whole member: it is a list of captions, if it is no object.
        is_usual = is_usual_member(extension.removesuffix("json").removesuffix(".") or "txt")
        if extension != "txt" and is_usual and _is_shared(pairs, extension):
            yield [extension]

    found = fields(pairs)
    for name in FIELDS:
        yield from ([place] for place in found if place.partition(":")[2] == name)
    yield from _numbered(pairs, found)


def _numbered(pairs: Sequence[SampledPair], places: Sequence[str]) -> Iterator[list[str]]:
    """Members, or fields of one member, whose usual names differ by a number only."""
    of_member: dict[str, list[str]] = {}
    for place in places:
        member, colon, field = place.partition(":")
        of_member.setdefault(member + colon if colon else "", []).append(field or member)

    for member, names in of_member.items():
        for family in numbered(names):
            # Pairs need not have as many texts as others.
            if _is_shared(pairs, f"{member}{family[0]}"):
                yield [f"{member}{name}" for name in family]


def _is_shared(pairs: Sequence[SampledPair], place: str) -> bool:
    """Whether a place is no part of a name: as `0.txt` of `img.0.txt`, which few names share."""
    return ":" in place or "." not in place or _share(pairs, [place]) >= _MOST_PAIRS


def _share(pairs: Sequence[SampledPair], places: Sequence[str]) -> float:
    return fmean(any(map(pair.texts, places)) for pair in pairs) if pairs else 0.0


def spelled_captions(caption: CaptionSource, pairs: Sequence[SampledPair]) -> str:
    """Says how many captions pairs have, and whether others are not used.

    Args:
        caption: Those that are used.
        pairs: Sampled pairs.

    Returns:
        `txt, 1 a pair`; and, if the used text is one of a longer list, where that lies.
    """
    whole = [pair for pair in pairs if pair.image is not None]
    if not whole:
        return str(caption)

    used = [_texts(pair, map(str, caption.places)) for pair in whole]
    mean = fmean(map(len, used))
    line = f"{caption}, {mean:.3g} a pair"
    for places in _lists(whole):
        others = [_texts(pair, places) for pair in whole]
        count = fmean(map(len, others))
        if count > mean and _are_captions(places, others, used):
            spelled = places[0] if len(places) == 1 else f"[{','.join(places)}]"
            setting = f"data.caption={spelled}"
            setting = f"'{setting}'" if len(places) > 1 else setting
            return f"{line}; pairs have {count:.3g} captions in {spelled}: {setting} uses all"
    return line


def _lists(pairs: Sequence[SampledPair]) -> Iterator[list[str]]:
    """Places that may hold several texts of a pair."""
    members = extensions(pairs)
    found = fields(pairs)
    yield from ([place] for place in found)
    yield from ([member] for member in members if member.endswith("json"))
    yield from _numbered(pairs, members)
    yield from _numbered(pairs, found)


def _texts(pair: SampledPair, places: Iterable[str]) -> list[str]:
    texts: list[str] = []
    for place in places:
        texts += pair.texts(place)
    return list(dict.fromkeys(texts))


def _are_captions(
    places: Sequence[str], others: Sequence[list[str]], used: Sequence[list[str]]
) -> bool:
    """Whether a list holds captions: by its name, or because a used text is one of them."""
    if len(places) > 1 or places[0].partition(":")[2] in LISTS:
        return True
    shared = [bool(set(own) & set(theirs)) for own, theirs in zip(used, others, strict=True)]
    return fmean(shared) >= _MOST_PAIRS
