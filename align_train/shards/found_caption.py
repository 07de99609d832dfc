"""Where the captions of shards lie, found out from their first pairs.

Whoever has shards of others does not know their members by heart. If `data.caption` is not set, a
run looks here; if pairs have more captions than it uses, it says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from statistics import fmean

from align_train.cluster.sharing import from_first
from align_train.errors import UserError, shown_names
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.members import ANY, Members
from align_train.shards.resolve import first_shards
from align_train.shards.sample import SampledPair, extensions, fields, sample

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
_TEXT_ENDINGS = ("txt", "text", "caption", "captions")

_MOST_PAIRS = 0.5  # the share of pairs that have texts where captions are


def found_caption(
    shards: str | Sequence[str],
    *,
    members: Members = ANY,
    cache: ShardCache,
    labels: bool = False,
    key: str = "data.shards",
    setting: str = "data.caption",
) -> str:
    """Finds out where the texts of shards lie. Collective.

    Args:
        shards: As `data.shards` takes them; of a list the first item is looked at.
        members: How members of the tars make pairs.
        cache: Fetches remote shards.
        labels: Whether labels are looked for: a member `cls`, or else `txt`.
        key: The setting of the shards, for errors.
        setting: The setting that is found out, for errors.

    Returns:
        The value of `data.caption`.

    Raises:
        UserError: There are no shards, or no texts in their first pairs.
    """
    urls = first_shards(shards, _TARS, cache=cache, key=key)
    look = partial(_look, urls, members, cache, labels, setting)
    return from_first(f"caption {shards} {members} {labels}", look)


def _look(
    urls: Sequence[str], members: Members, cache: ShardCache, labels: bool, setting: str
) -> str:
    pairs: list[SampledPair] = []
    for url in urls:
        try:
            pairs = sample(cache.local(url, cache.size(url)), members)
        except OSError:
            continue  # whoever counts the pairs says why
        if pairs:
            break

    caption = best_caption(pairs, labels=labels)
    if caption is not None or not pairs:
        return caption or "txt"
    seen = shown_names([*(f".{extension}" for extension in extensions(pairs)), *fields(pairs)])
    raise UserError(
        f"{setting} is not set, and the first pairs of {url} have texts neither in .txt nor in a "
        f"field of .json such as captions; they have {seen}; give {setting}=…"
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
        if extension != "txt" and extension.rpartition(".")[2] in _TEXT_ENDINGS:
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
