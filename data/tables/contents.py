"""What shards hold, as `data.manifest` reports it: members, fields of JSON, and the settings."""

from __future__ import annotations

import contextlib
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean, median

from align_train.errors import printable, shown
from align_train.shards.best_caption import with_image
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.found_caption import shortened, spelled_captions
from align_train.shards.left_out import counted
from align_train.shards.manifest import Manifest
from align_train.shards.members import Members
from align_train.shards.sample import PAIRS, SampledPair, Value, extensions, fields, sample
from align_train.shards.shard import ShardReader
from align_train.stream.bad_image import BadImage
from align_train.stream.upright import upright

_SHARDS = 3  # the first, a middle and the last one
_IMAGES = 24  # are decoded, for their sizes
_LONGEST_NAME = 32
_LONGEST_EXAMPLE = 60  # characters
_MOST_NAMED = 8  # images in a line

_MAX_BAD_SHARE = 0.1  # conf/data/webdataset.yaml's


def contents_of(
    manifest: Manifest, caption: CaptionSource, members: Members, cache: ShardCache
) -> Iterator[str]:
    """Reports what shards hold, from a sample of their pairs.

    Args:
        manifest: The shards.
        caption: Where the texts lie.
        members: How members of the tars make pairs.
        cache: Fetches remote shards; of these only the first is looked into.

    Yields:
        Lines: a table, what is missing, and the settings that fit.
    """
    urls = list(dict.fromkeys(shard.url for shard in manifest.shards if shard.pairs))
    if any(map(cache.wants, urls)):
        chosen = urls[:1]
    else:
        chosen = list(dict.fromkeys([urls[0], urls[len(urls) // 2], urls[-1]]))[:_SHARDS]

    pairs: list[SampledPair] = []
    for url in chosen:
        pairs += sample(cache.local(url, cache.size(url)), members)
    shards = counted(len(chosen), "shard")
    yield from held(pairs, shards)
    yield from _missing(pairs, caption)
    yield f"captions: {spelled_captions(caption, pairs)}"
    yield from _fit(pairs, caption, members)


def held(pairs: Sequence[SampledPair], where: str) -> Iterator[str]:
    """Says which members and fields pairs have.

    Args:
        pairs: Sampled pairs.
        where: The shards that they come from.

    Yields:
        Lines.
    """
    yield f"what they hold, by the first {PAIRS} names of {where}:"
    yield from _table(pairs)
    yield from _several_images(pairs)


def side_of(manifest: Manifest, caption: CaptionSource, members: Members, cache: ShardCache) -> int:
    """The usual shorter side of the first images, in pixels; 0 if none of them can be decoded."""
    url = next(shard.url for shard in manifest.shards if shard.pairs)
    reader = ShardReader(cache.local(url, cache.size(url)), caption, members=members)
    sides = []
    for pair in range(min(len(reader), _IMAGES)):
        # A link or a sparse file is a ValueError.
        with contextlib.suppress(BadImage, ValueError):
            sides.append(min(upright(reader.image(pair)).size))
    reader.close()
    return int(median(sides)) if sides else 0


def _table(pairs: Sequence[SampledPair]) -> Iterable[str]:
    """A row for each extension, and below it one for each field of its JSON."""
    yield f"  {'member':<{_LONGEST_NAME}} {'of names':>8}  {'kind':<16}  example"
    for extension in extensions(pairs):
        yield _row(extension, [pair.members.get(extension) for pair in pairs])
        for name in fields(pairs):
            member, _, path = name.partition(":")
            if member == extension:
                yield _row(f"  :{path}", [pair.fields.get(name) for pair in pairs])


def _row(name: str, values: Sequence[Value | None]) -> str:
    there = [value for value in values if value is not None]
    # The most frequent kind: a single odd value does not name the column.
    kind = Counter(value.kind for value in there).most_common(1)[0][0]
    several = [len(value.texts) for value in there]
    example = next((value.example for value in there if value.example and value.kind == kind), "")
    if kind.startswith("list of text"):
        kind = f"{fmean(several):.3g} texts"

    share = f"{len(there) / len(values):.0%}"
    line = shown(" ".join(example.split()), _LONGEST_EXAMPLE)
    return (
        f"  {shown(name, _LONGEST_NAME):<{_LONGEST_NAME}} {share:>8}  {kind:<16}  {line}".rstrip()
    )


def _missing(pairs: Sequence[SampledPair], caption: CaptionSource) -> Iterable[str]:
    """Names without an image, images that are none, and images without a text."""
    bare = [pair.key for pair in pairs if pair.image is None]
    if bare:
        have = "name has" if len(bare) == 1 else "names have"
        yield f"{len(bare)} {have} no image, first {shown(bare[0])}"

    false = []
    for pair in pairs:
        if pair.image is not None and pair.members[pair.image].kind != "image":
            false.append(f"{pair.key}.{pair.image}")
    if false:
        hold = "image member holds" if len(false) == 1 else "image members hold"
        yield f"{len(false)} {hold} something else, first {shown(false[0])}"

    silent = [pair for pair in with_image(pairs) if _is_silent(pair, caption)]
    if silent:
        have = "image has" if len(silent) == 1 else "images have"
        # Whoever counts the pairs of a tar knows of these alone.
        absent = sum(not _has_member(pair, caption) for pair in silent)
        of_these = f" ({absent} of them no {caption.members})" if 0 < absent < len(silent) else ""
        first = shown(silent[0].key)
        yield f"{len(silent)} {have} no text in {shortened(caption)}{of_these}, first {first}"


def _fit(pairs: Sequence[SampledPair], caption: CaptionSource, members: Members) -> Iterable[str]:
    """Names the settings that fit; or those that fit best, if a run would stop at bad pairs."""
    line = " ".join(map(printable, _short_settings(caption, members)))
    whole = with_image(pairs)
    bad = [pair for pair in whole if _is_bad(pair, caption)]
    if len(bad) <= _MAX_BAD_SHARE * len(whole):
        yield f"settings that fit: {line}"
        return
    yield f"settings that fit best: {line}"
    yield (
        f"a run would stop: {len(bad)} of {counted(len(whole), 'sampled pair')} are bad, and "
        f"data.max_bad_share={_MAX_BAD_SHARE:g} allows fewer; give another caption=…, or the run a "
        f"larger share"
    )


def _short_settings(caption: CaptionSource, members: Members) -> Iterator[str]:
    """The settings for the eye: of many places the first ones. The next command has them all."""
    for setting in settings_of(caption, members):
        is_short = len(caption.places) <= _MOST_NAMED or not setting.startswith("data.caption=")
        yield shlex.quote(setting) if is_short else f"data.caption={shortened(caption)}"


def _is_bad(pair: SampledPair, caption: CaptionSource) -> bool:
    """Whether a run would replace a pair that has an image."""
    assert pair.image is not None
    return pair.members[pair.image].kind != "image" or _is_silent(pair, caption)


def _is_silent(pair: SampledPair, caption: CaptionSource) -> bool:
    return not any(map(pair.texts, caption.places))


def _has_member(pair: SampledPair, caption: CaptionSource) -> bool:
    return any(place.extension in pair.members for place in caption.places)


def _several_images(pairs: Sequence[SampledPair]) -> Iterable[str]:
    """The images beside those that are read."""
    others: Counter[str] = Counter()
    for pair in pairs:
        kinds = pair.members.items()
        others.update(name for name, value in kinds if value.kind == "image" and name != pair.image)
    if others:
        used = Counter(pair.image for pair in pairs if pair.image).most_common(1)[0][0]
        names = [f"data.image={shown(name)}" for name in others]
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        named = f"{', '.join(names[:_MOST_NAMED])}{more}"
        yield f"names have several images: {printable(used)} is read; {named} would read another"


def settings_of(caption: CaptionSource | None, members: Members) -> list[str]:
    """The settings of a run that reads the shards. caption: None: the run finds it out."""
    # The image's member only if it was chosen: shards that nobody has sampled may have others.
    settings = [f"data.keys={members.keys}"] if members.keys else []
    settings += [f"data.image={members.image}"] if members.image else []
    settings += [f"data.caption={caption}"] if caption else []
    return settings
