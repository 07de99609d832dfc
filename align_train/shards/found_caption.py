"""Where the captions of shards lie, found out from their first pairs.

Whoever has shards of others does not know their members by heart. If `data.caption` is not set, a
run looks here; if pairs have more captions than it uses, it says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from statistics import fmean

from align_train.cluster.sharing import from_first
from align_train.errors import UserError, shown, shown_names
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.members import ANY, USUAL_TEXTS, Members, prefix_of, refuse_dots
from align_train.shards.resolve import first_shards
from align_train.shards.sample import SampledPair, extensions, fields, sample
from align_train.shards.tar_index import load_index

_TARS = 3  # are looked at, at most: the first ones may be empty

# Fields and members that are captions by their names, the likeliest first.
_FIELDS = (
    "captions",
    "texts",
    "sentences.raw",
    "sentences",
    "caption",
    "text",
    "alt_text",
    "alt",
    "title",
    "description",
)
_SEVERAL = ("captions", "texts", "sentences.raw", "sentences")

_MOST_PAIRS = 0.5  # the share of pairs that have texts where captions are


def found_caption(
    shards: str | Sequence[str],
    *,
    members: Members = ANY,
    cache: ShardCache,
    labels: bool = False,
    anew: bool = False,
    key: str = "data.shards",
) -> str:
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
        UserError: There are no shards, no images or no texts in their first pairs, or the names
            have dots and nobody has chosen a rule of keys.
    """
    urls = first_shards(shards, _TARS, cache=cache, anew=anew, key=key)
    look = partial(_look, urls, members, cache, labels, prefix_of(key))
    return from_first(f"caption {shards} {members} {labels}", look)


def _look(
    urls: Sequence[str], members: Members, cache: ShardCache, labels: bool, prefix: str
) -> str:
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
        raise UserError(
            f"{prefix}image{what} in the first pairs of {url}; they have {seen}; give shards with "
            f"images, or {prefix}image=…"
        )
    raise UserError(
        f"{prefix}caption is not set, and the first pairs of {url} have texts neither in .txt nor "
        f"in a field of .json such as captions; they have {seen}; give {prefix}caption=…"
    )


def best_caption(pairs: Sequence[SampledPair], *, labels: bool = False) -> str | None:
    """The value of `data.caption` that fits most pairs.

    Args:
        pairs: Sampled pairs.
        labels: Whether labels are looked for.

    Returns:
        The place: `json:captions`, `txt`, another text member, or a field with a usual name; None
        if there is none.
    """
    whole = [pair for pair in pairs if pair.image is not None]
    places = ["cls", "txt"] if labels else list(_places(whole))
    shares = {place: _share(whole, place) for place in places}
    for place, share in shares.items():
        if share >= _MOST_PAIRS:
            return place
    best = max(shares, key=lambda place: shares[place], default=None)
    return best if best is not None and shares[best] > 0 else None


def _places(pairs: Sequence[SampledPair]) -> Iterator[str]:
    yield "json:captions"
    yield "txt"
    for extension in extensions(pairs):
        _, dot, ending = extension.rpartition(".")
        # A dotted extension that few names share is a part of a name: `0.txt` of `img.0.txt`.
        is_shared = not dot or _share(pairs, extension) >= _MOST_PAIRS
        if extension != "txt" and ending in USUAL_TEXTS and is_shared:
            yield extension
    found = fields(pairs)
    for name in _FIELDS:
        yield from (place for place in found if place.partition(":")[2] == name)


def _share(pairs: Sequence[SampledPair], place: str) -> float:
    return fmean(bool(pair.texts(place)) for pair in pairs) if pairs else 0.0


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

    used = fmean(len(_used(pair, caption)) for pair in whole)
    line = f"{caption}, {used:.3g} a pair"
    for place in fields(whole):
        count = fmean(len(pair.texts(place)) for pair in whole)
        if count > used and _are_captions(place, caption, whole):
            return (
                f"{line}; pairs have {count:.3g} captions in {place}: data.caption={place} uses all"
            )
    return line


def _used(pair: SampledPair, caption: CaptionSource) -> list[str]:
    texts: list[str] = []
    for place in caption.places:
        texts += pair.texts(place)
    return list(dict.fromkeys(texts))


def _are_captions(place: str, caption: CaptionSource, pairs: Sequence[SampledPair]) -> bool:
    """Whether a list holds captions: by its name, or because a used text is one of them."""
    if place.partition(":")[2] in _SEVERAL:
        return True
    shared = [bool(set(pair.texts(place)) & set(_used(pair, caption))) for pair in pairs]
    return fmean(shared) >= _MOST_PAIRS
