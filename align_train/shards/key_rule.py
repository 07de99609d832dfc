"""Refuses tars of which the usual rule of keys would lose pairs.

`members.py` has the two rules. The first dot of a name ends its key, unless somebody has chosen the
last one. Names with dots of their own then share a key: `img.1.jpg` and `img.2.jpg` are both `img`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from align_train.errors import UserError, shown
from align_train.shards.caption import CaptionSource
from align_train.shards.left_out import counted
from align_train.shards.members import Members, MemberTable
from align_train.shards.tar_index import ShardIndex
from align_train.shards.usual_names import MEMBERS

# Members that make a pair of an image; they may be numbered.
_TEXT_ENDINGS = {*(ending.encode() for ending in MEMBERS), b"json", b"cls"}
_DIGITS = b"0123456789"


def member_table(
    index: ShardIndex, members: Members, caption: CaptionSource, *, tar: str, prefix: str = "data."
) -> MemberTable:
    """The members of a tar, by a rule that loses none of its pairs.

    Args:
        index: The tar's.
        members: How its members make pairs.
        caption: Where their texts lie.
        tar: Its path or URL, for the error.
        prefix: Of the settings, for the error.

    Raises:
        UserError: Nobody has chosen a rule, and the usual one finds fewer whole pairs than the
            other.
    """
    return _table_that_loses_none(
        index, members, lambda table: _whole(table, caption), tar=tar, prefix=prefix
    )


def refuse_dots(index: ShardIndex, members: Members, *, tar: str, prefix: str = "data.") -> None:
    """Refuses a tar whose usual rule loses pairs, before anyone knows where the texts lie.

    Of `img.0.jpg` and `img.0.txt` the usual rule makes a member `0.txt` of one key, which must not
    be taken for the captions. Of `img.0.jpg` and `img.0.caption0.txt` neither rule makes a pair.

    Args:
        index: The tar's.
        members: How its members make pairs.
        tar: Its path or URL, for the error.
        prefix: Of the settings, for the error.

    Raises:
        UserError: As `member_table`; or the images have texts that no rule finds.
    """
    table = _table_that_loses_none(index, members, _with_usual_text, tar=tar, prefix=prefix)
    if _is_settled(table):
        return

    whole = _with_usual_text(table)
    images = _with_text_of_longer_name(MemberTable(index, Members(members.image, "last_dot")))
    if len(whole) >= len(images):
        return
    key, extension = _lost(table, whole, images)
    raise UserError(
        f"{tar}: names have dots: keys that end at the first one make "
        f"{counted(len(whole), 'pair')} of {len(images):,} images ({key}.{extension} is the member "
        f"{extension} of the key {key}), and keys that end at the last one find no texts; name the "
        f"members anew, without a dot before the member's (7.caption0.txt), or give "
        f"{prefix}keys=first_dot to leave the others out"
    )


def _table_that_loses_none(
    index: ShardIndex,
    members: Members,
    whole_of: Callable[[MemberTable], list[int]],
    *,
    tar: str,
    prefix: str,
) -> MemberTable:
    table = MemberTable(index, members)
    if _is_settled(table):
        return table

    whole = whole_of(table)
    # The other rule is tried only on names with two dots: it costs a second table.
    instead = whole_of(MemberTable(index, Members(members.image, "last_dot")))
    if len(whole) >= len(instead):
        return table

    key, extension = _lost(table, whole, instead)
    raise UserError(
        f"{tar}: names have dots: keys that end at the first one make "
        f"{counted(len(whole), 'pair')}, at the last one {len(instead):,} "
        f"({key}.{extension} is the member {extension} of the key {key}); give "
        f"{prefix}keys=last_dot, or {prefix}keys=first_dot to leave the others out"
    )


def _is_settled(table: MemberTable) -> bool:
    """Whether the rule was chosen, or makes no difference."""
    # A broken tar is refused for something else.
    if table.members.keys is not None or table.index.fault:
        return True
    # Without a second dot both rules are one.
    return not any(b"." in extension for extension in table.extensions)


def _lost(table: MemberTable, whole: Collection[int], instead: Collection[int]) -> tuple[str, str]:
    """The key and extension, for errors, of an image that only the other rule gives a text.

    Both rules name the same members, and the other one has more pairs, so that there is one.
    """
    found = set(whole)
    lost = next(member for member in instead if member not in found)
    key = shown(table.keys[lost].decode("utf-8", "replace"))
    extension = shown(table.extensions[lost].decode("utf-8", "replace"))
    return key, extension


def _whole(table: MemberTable, caption: CaptionSource) -> list[int]:
    """The images that have a text."""
    pairs = table.pairs(caption)
    images: list[int] = pairs[(pairs[:, 1:] >= 0).any(axis=1), 0].tolist()
    return images


def _with_usual_text(table: MemberTable) -> list[int]:
    """The images, one a key, whose key has a member that is a text or a label by its name."""
    return _images_of(table, set(_keys_of_texts(table)))


def _with_text_of_longer_name(table: MemberTable) -> list[int]:
    """The images whose key, with a dot and more, is the key of a text: `img.0` of `img.0.a.txt`."""
    keys: set[bytes] = set()
    for longer in _keys_of_texts(table):
        key = longer
        while (dot := key.rfind(b".")) > key.rfind(b"/"):
            key = key[:dot]
            keys.add(key)
    return _images_of(table, keys)


def _keys_of_texts(table: MemberTable) -> list[bytes]:
    """The keys of the members that are texts or labels by their names."""
    keys = []
    for key, extension in zip(table.keys, table.extensions, strict=True):
        # Without its number: `caption0` is a text as `caption` is.
        if extension.rpartition(b".")[2].strip(_DIGITS) in _TEXT_ENDINGS:
            keys.append(key)
    return keys


def _images_of(table: MemberTable, keys: Collection[bytes]) -> list[int]:
    """The first image of each of some keys."""
    first_image: dict[bytes, int] = {}
    for member in table.images(CaptionSource(())):
        first_image.setdefault(table.keys[member], member)
    return [member for key, member in first_image.items() if key in keys]
