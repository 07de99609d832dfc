"""Which members of a tar make a pair: its key, its image and its texts.

A member's name is a key and an extension. The key ends at the first dot of the name, after the
folders: `train.v2/0007.seg.png` is `seg.png` of the key `train.v2/0007`. That is the rule of the
webdataset library. Names with dots of their own (`img.1.jpg`) want the other rule, by which the key
ends at the last dot.

Price: some 2 µs a member whenever a shard is opened; names are kept as the index has them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError, shown
from align_train.shards.caption import NO_TEXT, SECOND, CaptionSource
from align_train.shards.tar_index import IMAGE_EXTENSIONS, ShardIndex

Keys = Literal["first_dot", "last_dot"]

# Members that everybody knows: that they are not read is no news.
_USUAL = (b"json", b"txt")

_MOST_SPELLED = 6  # extensions in an error


@dataclass(frozen=True)
class Members:
    """How the members of tars make pairs.

    Attributes:
        image: The extension of the image's member, such as `jpg` or `rgb.png`; None: `jpg`, `jpeg`,
            `png` or `webp`, or else the first member of the key that holds an image.
        keys: The dot of a name at which its key ends; None: the first one, and a tar in which that
            loses pairs is refused.
    """

    image: str | None = None
    keys: Keys | None = None

    @classmethod
    def parse(
        cls, image: str | None = None, keys: str | None = None, *, prefix: str = "data."
    ) -> Members:
        """Reads the settings `data.image` and `data.keys`.

        Args:
            image: A member's extension, with or without its dot; or None.
            keys: `first_dot` or `last_dot`; or None.
            prefix: Of the settings, for errors.

        Raises:
            UserError: A setting is something else.
        """
        if image is not None:
            extension = image.removeprefix(".").lower()
            has_other = "/" in extension or ":" in extension or not extension.isprintable()
            if not extension or has_other:
                raise UserError(
                    f"{prefix}image='{shown(image)}': expected a member such as 'jpg', or null"
                )
            image = extension
        if keys is None or keys in get_args(Keys):
            return cls(image, cast(Keys | None, keys))
        raise UserError(f"{prefix}keys={shown(keys)}: expected first_dot, last_dot or null")


ANY = Members()


def split(name: bytes, keys: Keys | None) -> tuple[bytes, bytes]:
    """Splits a member's name, which has a dot after its folders.

    Args:
        name: The name.
        keys: The dot at which the key ends; None: the first.

    Returns:
        The key with its folders, and the extension in lower case, both without the dot.
    """
    at = name.rfind(b".") if keys == "last_dot" else name.find(b".", name.rfind(b"/") + 1)
    return name[:at], name[at + 1 :].lower()


class MemberTable:
    """The members of a tar by key and extension."""

    def __init__(self, index: ShardIndex, members: Members = ANY) -> None:
        """Splits the names.

        Args:
            index: The tar's.
            members: How its members make pairs.
        """
        self.index = index
        self.members = members
        self.keys: list[bytes] = []
        self.extensions: list[bytes] = []
        for name in index.names.tolist():
            key, extension = split(name, members.keys)
            self.keys.append(key)
            self.extensions.append(extension)

    def with_extension(self, extension: bytes) -> list[int]:
        """The members of an extension, in the tar's order."""
        return [member for member, own in enumerate(self.extensions) if own == extension]

    def pairs(self, caption: CaptionSource) -> NDArray[np.int64]:
        """Finds the pairs: the images in the tar's order, each with its texts.

        Args:
            caption: Which members are texts.

        Returns:
            Indices of members `[pairs, 1 + places]`: the image's, and that of each place of texts.
            A negative number in place of a text's says why it is not there: `NO_TEXT`, or `SECOND`
            image under the same key.
        """
        images = self.images(caption)
        keys = [self.keys[member] for member in images]
        # In a dict the last of equal keys stays, so reversed, the first image does.
        first_image = dict(zip(reversed(keys), reversed(images), strict=True))
        is_second = [first_image[key] != member for key, member in zip(keys, images, strict=True)]

        pairs = np.empty((len(images), 1 + len(caption.places)), dtype=np.int64)
        pairs[:, 0] = images
        for column, place in enumerate(caption.places, start=1):
            text_of: dict[bytes, int] = {}
            for member in self.with_extension(place.extension.encode()):
                text_of.setdefault(self.keys[member], member)  # of several texts the first counts
            pairs[:, column] = [text_of.get(key, NO_TEXT) for key in keys]
        pairs[is_second, 1:] = SECOND
        return pairs

    def images(self, caption: CaptionSource) -> list[int]:
        """The members that are images of pairs, in the tar's order.

        A member that only its content makes an image is one if its key has no other: beside
        `1.jpg`, `1.mask` may be a PNG.
        """
        if self.members.image is not None:
            return self.with_extension(self.members.image.encode())

        texts = _extensions(caption)
        # A member that the caption names is a text, even if its extension is an image's.
        endings = {extension.encode() for extension in IMAGE_EXTENSIONS} - texts
        named = [member for member, own in enumerate(self.extensions) if own in endings]
        taken = {self.keys[member] for member in named}

        images = set(named)
        for member in np.flatnonzero(self.index.looks).tolist():
            if self.keys[member] not in taken and self.extensions[member] not in texts:
                taken.add(self.keys[member])
                images.add(member)
        return sorted(images)

    def texts_without_image(self, caption: CaptionSource) -> list[bytes]:
        """The keys that have a text, but no image."""
        texts = _extensions(caption)
        with_image = {self.keys[member] for member in self.images(caption)}
        members = [member for member, own in enumerate(self.extensions) if own in texts]
        return sorted({self.keys[member] for member in members} - with_image)

    def unread(self, caption: CaptionSource) -> list[bytes]:
        """The names of members that are neither image nor text, and no usual `json` or `txt`."""
        images = set(self.images(caption))
        read = _extensions(caption) | set(_USUAL)
        members = enumerate(self.extensions)
        unread = [member for member, own in members if member not in images and own not in read]
        names: list[bytes] = self.index.names[unread].tolist() if unread else []
        return names

    def spelled_extensions(self) -> str:
        """The most frequent extensions, as errors name them."""
        most = Counter(self.extensions).most_common(_MOST_SPELLED)
        spelled = [f".{shown(own.decode('utf-8', 'replace'))} ({count:,})" for own, count in most]
        return ", ".join(spelled)


def _extensions(caption: CaptionSource) -> set[bytes]:
    return {place.extension.encode() for place in caption.places}


def prefix_of(key: str) -> str:
    """What begins the names of a node's settings: `data.` of `data.shards`, nothing of `shards`."""
    return key[: max(key.rfind("."), key.rfind(" ")) + 1]
