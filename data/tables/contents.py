"""What shards hold, as `data.manifest` reports it: members, fields of JSON, and the settings."""

from __future__ import annotations

import contextlib
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean, median

from align_train.errors import printable, shown
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.found_caption import spelled_captions
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
    yield f"settings that fit: {shlex.join(settings_of(caption, members))}"


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

    silent = []
    for pair in pairs:
        if pair.image is not None and not any(map(pair.texts, caption.places)):
            silent.append(pair.key)
    if silent:
        have = "image has" if len(silent) == 1 else "images have"
        yield f"{len(silent)} {have} no text in {caption}, first {shown(silent[0])}"


def _several_images(pairs: Sequence[SampledPair]) -> Iterable[str]:
    """The images beside those that are read."""
    others: Counter[str] = Counter()
    for pair in pairs:
        kinds = pair.members.items()
        others.update(name for name, value in kinds if value.kind == "image" and name != pair.image)
    if others:
        used = Counter(pair.image for pair in pairs if pair.image).most_common(1)[0][0]
        names = ", ".join(f"data.image={printable(name)}" for name in others)
        yield f"names have several images: {printable(used)} is read; {names} would read another"


def settings_of(caption: CaptionSource | None, members: Members) -> list[str]:
    """The settings of a run that reads the shards. caption: None: the run finds it out."""
    # The image's member only if it was chosen: shards that nobody has sampled may have others.
    settings = [f"data.keys={members.keys}"] if members.keys else []
    settings += [f"data.image={members.image}"] if members.image else []
    settings += [f"data.caption={caption}"] if caption else []
    return settings
