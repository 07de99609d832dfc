"""Captions that a setting names and shards do not have, found before models are built.

Price: the texts of the first hundred pairs of a tar are read; of three tars, if the first ones have
none. A tar without an index gets it here, and whoever opens the tar later finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from align_train.config.schema import Node
from align_train.errors import UserError, shown_names
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.members import Members
from align_train.shards.remote import is_url
from align_train.shards.resolve import first_shards
from align_train.shards.sample import PAIRS, SampledPair, extensions, fields, sample
from align_train.shards.shard import ShardReader

_TARS = 3  # are looked at, at most: the first ones may be of another kind


def refuse_absent_captions(
    shards: str | Sequence[str],
    caption: CaptionSource,
    members: Members,
    *,
    labels: bool,
    key: str,
    of: str,
) -> None:
    """Refuses captions of which the first pairs of local shards have not even the place.

    A pair may lack a text, or have an empty one: this is for the run to count.

    Args:
        shards: As `data.shards` takes them; of a list the first item is looked at. URLs are not.
        caption: Where the texts are said to lie.
        members: How members of the tars make pairs.
        labels: Whether they are labels, which may be numbers.
        key: The setting of the captions, for the error.
        of: The setting of the shards, for errors.

    Raises:
        UserError: No pair has a member or a field of these names, or all have numbers there.
    """
    tar = first_tar_without(shards, caption, members, labels=labels, of=of)
    if tar is None:
        return

    pairs = sample(tar, members)
    names = [*extensions(pairs), *fields(pairs)]
    with_texts = [name for name in names if any(pair.texts(name) for pair in pairs)]
    raise UserError(
        f"{key}={caption}: the first pairs of {tar} have no text there; they have texts "
        f"in {shown_names(with_texts) or 'no place'}; give {key}=…, or leave it out"
    )


def first_tar_without(
    shards: str | Sequence[str],
    caption: CaptionSource,
    members: Members,
    *,
    labels: bool,
    of: str,
) -> Path | None:
    """Returns the first tar if none of its first pairs has a place of the captions.

    None if one has, or if nobody can tell. For the parameters see `refuse_absent_captions`.
    """
    first = shards if isinstance(shards, str) else next(iter(shards), "")
    # A look at a URL would download its tar before the run has said anything.
    if not isinstance(first, str) or is_url(first):
        return None

    urls = first_shards(first, _TARS, members=members, cache=ShardCache(), key=of)
    # A manifest on this machine may name shards that lie elsewhere.
    paths = [Path(url) for url in urls if not is_url(url)]
    for path in paths:
        try:
            with closing(ShardReader(path, caption, members=members)) as reader:
                if _may_have_captions(reader, labels):
                    return None
            if any(_has_empty_list(pair, caption) for pair in sample(path, members)):
                return None
        except OSError:
            return None  # whoever counts the pairs says why
    return paths[0] if paths else None


def _has_empty_list(pair: SampledPair, caption: CaptionSource) -> bool:
    """Whether a pair has a list without items in a place: a reader finds no value in it."""
    values = [pair.fields.get(str(place)) for place in caption.places]
    return any(value is not None and value.kind == "empty list" for value in values)


def _may_have_captions(reader: ShardReader, labels: bool) -> bool:
    """Whether a tar has a place of the captions, or cannot say so."""
    # A torn or empty tar proves no absence: the run will say what is wrong with it.
    if reader.index.fault or not len(reader.pairs):
        return True
    places = range(len(reader.caption.places))
    return any(_may_have_place(reader, place, labels) for place in places)


def _may_have_place(reader: ShardReader, place: int, labels: bool) -> bool:
    with_member = reader.pairs[:, 1 + place] >= 0
    where = reader.caption.places[place]
    if where.field is None or not with_member.any():
        return bool(with_member.any())

    any_readable = False
    for pair in with_member.nonzero()[0][:PAIRS].tolist():
        try:
            values = where.values(reader.text(pair, place))
            # A null is in the right place: only this pair has no text.
            if any(labels or value is None or isinstance(value, str) for value in values):
                return True
        except UserError:
            # It is a ValueError too, but about the tar and not about the pair.
            raise
        except ValueError:
            continue
        any_readable = True

    # If no pair can be read, the run counts them as bad.
    return not any_readable


def caption_of_run(
    shards: str | Sequence[str] | None, data: Node, members: Members
) -> str | list[str] | None:
    """The place of a run's held-out captions, if other shards have it too.

    Args:
        shards: The other shards; None: those of the run are evaluated.
        data: The run's node `data`.
        members: How members of the tars make pairs.

    Returns:
        The value of `data.caption`; None: it is to be found out.

    Raises:
        UserError: There are no shards.
    """
    # The held-out pairs of a run may keep their texts elsewhere than its training pairs.
    caption: str | list[str] | None = data["held_out_caption"] or data["caption"]
    if shards is None or caption is None:
        return caption

    source = CaptionSource.parse(caption)
    labels = data.get("classes") is not None
    tar = first_tar_without(shards, source, members, labels=labels, of="shards")
    return caption if tar is None else None
