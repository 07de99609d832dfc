"""Opens the images that a collection has, or will have: those of shards, or of a plain folder."""

from __future__ import annotations

from align_train.cluster.launcher import is_first_process
from align_train.shards.cache import ShardCache
from align_train.shards.caption import NO_CAPTIONS, CaptionSource
from align_train.shards.found_caption import NoCaption, found_caption
from align_train.shards.members import Members
from align_train.shards.resolve import resolve
from align_train.stream.decode import Views
from align_train.stream.pairs import Pairs
from align_train.stream.plain_images import PlainImages
from align_train.stream.sets import say_found

BESIDE_FILES = "txt"
"""The texts of image files, unless a setting says otherwise: `cat.txt` beside `cat.jpg`."""


def open_images(
    place: str | list[str],
    *,
    plain: bool,
    caption: str | list[str] | None,
    image: str | None,
    keys: str | None,
    views: Views,
    cache: ShardCache,
    progress: bool,
    need_texts: bool = False,
) -> Pairs:
    """Opens images with their texts.

    Args:
        place: Shards as `data.shards` takes them, or a folder.
        plain: Whether `place` is a folder of image files.
        caption: As `data.caption`; `[]`: images alone; None: found out, and said in a line.
        image: As `data.image`, for shards.
        keys: As `data.keys`, for shards.
        views: Decide how an image is seen.
        cache: Fetches shards at URLs.
        progress: Whether to show a bar while shards are counted.
        need_texts: Whether it is an error if no captions are found out; else images are without.

    Returns:
        The pairs.

    Raises:
        UserError: There are none, or a setting is wrong.
    """
    if plain:
        source = CaptionSource.parse(caption or BESIDE_FILES, key="caption")
        return PlainImages(str(place), caption=source, views=views, key="images")

    # Commands have these settings at their root: an error must not call them data.image.
    members = Members.parse(image, keys, prefix="")
    if caption is None:
        source = _found(place, members, cache, need_texts)
    else:
        source = CaptionSource.parse_or_none(caption, key="caption")
    manifest = resolve(
        place, caption=source, members=members, cache=cache, progress=progress, key="shards"
    )
    return Pairs(manifest=manifest, caption=source, views=views, members=members, cache=cache)


def _found(
    place: str | list[str], members: Members, cache: ShardCache, need_texts: bool
) -> CaptionSource:
    """Finds captions out, and says so. Images can be found without any."""
    try:
        caption = found_caption(place, members=members, cache=cache, key="shards")
    except NoCaption as error:
        # Pairs without any image are a mistake about images, and not about captions.
        if need_texts or all(pair.image is None for pair in error.pairs):
            raise
        if is_first_process():
            print(f"{error}; without it no image has a text", flush=True)
        return NO_CAPTIONS

    say_found(place, caption)
    return CaptionSource.parse(caption, key="caption")
