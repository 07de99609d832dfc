"""Where the captions of shards lie, found out from their first pairs.

Whoever has shards of others does not know their members by heart. If `data.caption` is not set, a
run looks here; if pairs have more captions than it uses, it says so.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from statistics import fmean

from align_train.cluster.sharing import from_first
from align_train.errors import UserError, printable, shown, shown_names
from align_train.shards.best_caption import (
    MOST_PAIRS,
    best_caption,
    empty_captions,
    numbered_places,
    share_with,
    with_image,
)
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.key_rule import refuse_dots
from align_train.shards.left_out import counted
from align_train.shards.members import ANY, Members, prefix_of
from align_train.shards.resolve import first_shards
from align_train.shards.sample import SampledPair, extensions, fields, sample
from align_train.shards.tar_index import load_index
from align_train.shards.usual_names import LISTS

_TARS = 3  # are looked at, at most: the first ones may be empty
_MOST_NAMED = 8  # places of which a line names the shares


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
    looked_at = ""
    for url in urls:
        try:
            path = cache.local(url, cache.size(url))
            index = load_index(path)
            refuse_dots(index, members, tar=url, prefix=prefix)
            found = sample(path, members)
        except OSError:
            continue  # whoever counts the pairs says why
        # A tar without images, perhaps empty or torn, tells nothing: the next one is asked.
        has_images = any(pair.image is not None for pair in found)
        if has_images or not index.fault:
            pairs, looked_at = found, url
        if has_images:
            break

    if not pairs:
        # All are empty, broken or cannot be read. Whoever counts the pairs says why.
        return "txt"
    places = best_caption(pairs, labels=labels)
    if places:
        return places[0] if len(places) == 1 else places
    empty = [] if labels else empty_captions(pairs)
    raise NoCaption(_reason(pairs, empty, members, looked_at, prefix), pairs, looked_at)


def _reason(
    pairs: Sequence[SampledPair], empty: Sequence[str], members: Members, url: str, prefix: str
) -> str:
    """Says why there is no caption, and what to do. empty: usual places without a value."""
    whole = with_image(pairs)
    seen = _seen(whole or pairs)
    if not whole and members.image is not None:
        return (
            f"{prefix}image={shown(members.image)}: no member has this extension in the first "
            f"pairs of {url}; they have {seen}; give shards with images, or {prefix}image=…"
        )
    if not whole:
        return (
            f"{prefix}image is not set, and no member holds an image in the first pairs of {url}; "
            f"they have {seen}; give shards with images, or {prefix}image=…"
        )

    if empty:
        return (
            f"{prefix}caption is not set, and {shown(empty[0])} is empty in the first "
            f"{counted(len(whole), 'pair')} of {url}; they have {seen}; give "
            f"{prefix}caption={shown(empty[0])} to take it, or another place"
        )
    return (
        f"{prefix}caption is not set, and the first pairs of {url} have texts neither in .txt nor "
        f"in a field of .json such as captions; they have {seen}; give {prefix}caption=…"
    )


def _seen(pairs: Sequence[SampledPair]) -> str:
    return shown_names([*(f".{extension}" for extension in extensions(pairs)), *fields(pairs)])


def spelled_captions(caption: CaptionSource, pairs: Sequence[SampledPair]) -> str:
    """Says how many captions pairs have, and whether others are not used.

    Args:
        caption: Those that are used.
        pairs: Sampled pairs.

    Returns:
        `txt, 1 a pair`; of several places those that some pairs lack; and, if pairs have a longer
        list of captions, the setting that uses it.
    """
    whole = with_image(pairs)
    if not whole:
        return shortened(caption)

    own_places = list(map(str, caption.places))
    # Of pairs with an image: no run shows the texts of another one.
    used = [_texts(pair, own_places) for pair in whole]
    line = f"{shortened(caption)}, {fmean(map(len, used)):.3g} a pair{_shares(whole, own_places)}"
    for places in _lists(whole):
        others = [_texts(pair, places) for pair in whole]
        is_longer = fmean(map(len, others)) > fmean(map(len, used))
        if is_longer and _are_captions(places, others, used):
            # Texts that the list lacks would be lost with the present setting.
            if not _are_among(used, others):
                places = list(dict.fromkeys([*own_places, *places]))
            return f"{line}; {_uses_all(whole, places)}"
    return line


def _uses_all(pairs: Sequence[SampledPair], places: Sequence[str]) -> str:
    """Says which setting uses the texts of all these places."""
    source = CaptionSource.parse(places)
    count = fmean(len(_texts(pair, places)) for pair in pairs)
    setting = printable(shlex.quote(f"data.caption={source}"))
    return f"pairs have {count:.3g} captions in {shortened(source)}: {setting} uses all"


def _shares(pairs: Sequence[SampledPair], places: Sequence[str]) -> str:
    """Of several places says which ones some pairs lack."""
    if len(places) == 1:
        return ""
    rare = []
    for place in places:
        share = share_with(pairs, [place])
        if share < 1:
            rare.append(f"{shown(place)} in {share:.0%}")
    more = ", …" if len(rare) > _MOST_NAMED else ""
    return f" ({', '.join(rare[:_MOST_NAMED])}{more} of them)" if rare else ""


def shortened(caption: CaptionSource) -> str:
    """Spells the places of captions for one line; of many the first ones and their number."""
    places = list(map(str, caption.places))
    if len(places) <= _MOST_NAMED:
        return printable(str(caption))
    return f"[{printable(','.join(places[:_MOST_NAMED]))},…] ({len(places)} places)"


def _lists(pairs: Sequence[SampledPair]) -> Iterator[list[str]]:
    """Places that may hold several texts of a pair."""
    members = extensions(pairs)
    found = fields(pairs)
    yield from ([place] for place in found)
    yield from ([member] for member in members if member.endswith("json"))
    yield from numbered_places(pairs, members)
    yield from numbered_places(pairs, found)


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
    return fmean(shared) >= MOST_PAIRS


def _are_among(used: Sequence[list[str]], others: Sequence[list[str]]) -> bool:
    """Whether all used texts of all pairs are among the others."""
    return all(set(own) <= set(theirs) for own, theirs in zip(used, others, strict=True))
