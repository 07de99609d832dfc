"""From pairs to shards. A bad image is left out and named; it ends nothing unless many are bad."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path, PurePath

from tqdm import tqdm

from align_train.errors import UserError, shown
from align_train.shards.image_kind import HEAD, image_kind
from align_train.shards.manifest import MANIFEST_NAME, Manifest, Shard
from align_train.shards.write import write_shard
from align_train.stream.upright import check_header, upright
from align_train.stream.wordpiece import train_tokenizer

from .images import Image, Pair
from .settings import PackSettings

# Images of these kinds stay as they are, others become PNG. The first ending is the usual one.
_KEPT = {"JPEG": ("jpg", "jpeg"), "PNG": ("png",), "WEBP": ("webp",)}

_LEAST_JUDGED = 1000  # images: of fewer, a share means little
_MOST_NAMED = 10  # bad images that get a line each

Members = tuple[str, Mapping[str, bytes]]


def write(pairs: Sequence[Pair], folder: Path, settings: PackSettings) -> Written:
    """Writes shards, the manifest and, if the setting asks for one, a vocabulary.

    Args:
        pairs: In the order in which they fill the shards.
        folder: Is made.
        settings: Those of the command.

    Returns:
        What was written.

    Raises:
        UserError: Too many images are bad, or the disk is full.
    """
    written = Written(settings.max_bad_share, len(pairs))
    size = settings.pairs_per_shard
    shards: list[Shard] = []

    with tqdm(total=len(pairs), desc="packing", unit="pair") as bar:
        members = written.members(pairs, bar)
        # The next pair first: without it the shard would be empty.
        for first in members:
            path = folder / f"{len(shards):05d}.tar"
            shards.append(write_shard(path, chain([first], islice(members, size - 1))))
    written.refuse_none()
    Manifest(tuple(shards), str(folder)).write(folder / MANIFEST_NAME)

    if settings.vocabulary:
        train_tokenizer(
            lambda: iter(written.texts),
            size=settings.vocabulary,
            folder=folder / "tokenizer",
        )
    written.shards = len(shards)
    return written


class Written:
    """What was written, and what was not.

    Attributes:
        texts: Those of each pair that was written.
        shards: How many there are.
        bad: How many images are bad.
    """

    def __init__(self, max_bad_share: float, pairs: int) -> None:
        """Begins with nothing.

        Args:
            max_bad_share: The share of bad images at which to stop.
            pairs: How many are to be written.
        """
        self.texts: list[list[str]] = []
        self.shards = 0
        self.bad = 0
        self._pairs = pairs
        self._share = max_bad_share
        self._most = max_bad_share * max(pairs, _LEAST_JUDGED)
        self._first = ""

    def members(self, pairs: Sequence[Pair], bar: tqdm[None]) -> Iterator[Members]:
        """Yields the key and the members of each pair whose image is good."""
        for pair in pairs:
            bar.update()
            try:
                extension, image = read_image(pair.image)
            except (ValueError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else None
                self._count(f"{shown(pair.image.name)}: {shown(reason or str(error))}")
                continue

            # A name may be any bytes.
            name = pair.image.name.encode("utf-8", "backslashreplace").decode()
            record = json.dumps({"captions": pair.texts, "source": name}, ensure_ascii=False)
            # Keys are unique among all shards.
            key = f"{len(self.texts):09d}"
            self.texts.append(pair.texts)
            # The first text is a member too, for readers that expect one caption.
            yield key, {extension: image, "txt": pair.texts[0].encode(), "json": record.encode()}

    def _count(self, line: str) -> None:
        self.bad += 1
        self._first = self._first or line
        if self.bad <= _MOST_NAMED:
            tqdm.write(f"left out: {line}")
        if self.bad > self._most:
            self._refuse(f"more than max_bad_share={self._share:g} allows")

    def refuse_none(self) -> None:
        """Refuses to write shards without a pair."""
        if not self.texts:
            self._refuse("hence no pair is left")

    def _refuse(self, why: str) -> None:
        raise UserError(
            f"{self.bad:,} of {self._pairs:,} images are bad, {why}; first {self._first}; "
            f"repair them or leave them out"
        )


def read_image(image: Image) -> tuple[str, bytes]:
    """The extension and the bytes that go into the shard.

    JPEG, PNG and WebP stay as they are, turned ones too: whoever decodes them turns them. Of these
    only the header is checked.

    Args:
        image: A file of any name, or bytes.

    Returns:
        The extension without a dot, and the content.

    Raises:
        ValueError: This is no good image; says why.
        OSError: It cannot be read.
    """
    data = image.read()
    kind = image_kind(data[:HEAD])
    endings = _KEPT.get(kind or "")

    if endings:
        check_header(data)
        own = PurePath(image.name).suffix.lower().lstrip(".")
        return own if own in endings else endings[0], data

    buffer = io.BytesIO()
    upright(data).save(buffer, "PNG")
    return "png", buffer.getvalue()
