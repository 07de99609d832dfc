"""From pairs to shards. A bad image is left out and named; it ends nothing unless many are bad."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from random import Random

from tqdm import tqdm

from align_train.errors import UserError, shown
from align_train.shards.left_out import are, counted
from align_train.shards.manifest import MANIFEST_NAME, Manifest
from align_train.shards.row import Shard
from align_train.shards.source_name import CAPTIONS, FIELD
from align_train.shards.write import write_shard
from align_train.stream.bad_image import BadImage

from .ahead import Content, contents
from .content import NoImage, packed
from .held_out import HeldOut
from .images import Image, Pair, Spool
from .left_out import LeftOutList
from .missing import HOW_TO_SKIP, MISSING
from .remote import NotFetched
from .sample import Sample
from .settings import HELD_OUT, TOKENIZER, PackSettings
from .trainers import train_vocabulary

_LEAST_JUDGED = 1000  # images: of fewer, a share means little
_MOST_NAMED = 10  # bad images that get a line each

Members = tuple[str, Mapping[str, bytes]]


def write(
    pairs: Sequence[Pair],
    folder: Path,
    settings: PackSettings,
    left_out: LeftOutList,
    spool: Spool,
) -> Written:
    """Writes shards, the manifest and, if the setting asks for one, a vocabulary.

    Args:
        pairs: In the order in which they fill the shards.
        folder: Is made.
        settings: Those of the command.
        left_out: Counts the images that are not packed.
        spool: Keeps images that would be fetched twice.

    Returns:
        What was written.

    Raises:
        UserError: Too many images are bad or held out, or the disk is full.
    """
    written = Written(settings, len(pairs), left_out, spool)
    with tqdm(total=len(pairs), desc="packing", unit="pair") as bar:
        members = written.training_members(pairs, bar)
        written.shards = _write_shards(members, folder, settings.pairs_per_shard)
    written.refuse_none()
    if settings.held_out:
        _write_shards(written.held_out_members(), folder / HELD_OUT, settings.pairs_per_shard)
        written.refuse_none_held_out()

    if settings.vocabulary:
        train_vocabulary(
            lambda: iter(written.texts),
            kind=settings.vocabulary_kind,
            size=settings.vocabulary,
            folder=folder / TOKENIZER,
        )
    return written


def _write_shards(members: Iterator[Members], folder: Path, size: int) -> int:
    """Writes tars of so many pairs, and their manifest. Returns how many."""
    shards: list[Shard] = []
    # The next pair first: without it the shard would be empty.
    for first in members:
        path = folder / f"{len(shards):05d}.tar"
        shards.append(write_shard(path, chain([first], islice(members, size - 1))))
    if shards:
        Manifest(tuple(shards), str(folder)).write(folder / MANIFEST_NAME)
    return len(shards)


class Written:
    """What was written, and what was not.

    Attributes:
        texts: Those of each pair that was written to train on.
        held_out: Those of each pair that is held out.
        sample: Some of the pairs, to be looked at.
        shards: How many there are.
    """

    def __init__(
        self, settings: PackSettings, pairs: int, left_out: LeftOutList, spool: Spool
    ) -> None:
        """Begins with nothing.

        Args:
            settings: Those of the command.
            pairs: How many are to be written.
            left_out: Counts the images that are not packed.
            spool: Keeps images that would be fetched twice.

        Raises:
            UserError: `held_out` would leave no pair to train on.
        """
        self.texts: list[list[str]] = []
        self.held_out: list[list[str]] = []
        self.sample = Sample()
        self.shards = 0
        self._left_out = left_out
        self._settings = settings
        self._pairs = pairs
        self._choice = HeldOut(settings.held_out, pairs, spool)
        self._to_hold_out: list[Pair] | None = None  # None: not all images are read yet
        self._most = settings.max_bad_share * max(pairs, _LEAST_JUDGED)
        self._bad = 0
        self._first = ""

    def training_members(self, pairs: Sequence[Pair], bar: tqdm[None]) -> Iterator[Members]:
        """Yields the key and the members of each pair whose image is good, to train on.

        Reads all images, which decides about those that are held out.
        """
        for pair, extension, image in self._good(pairs, bar):
            try:
                if self._choice.is_candidate(pair, image):
                    continue
            except BadImage as error:
                self._add_bad(pair.image, error)
                continue
            yield self._members(pair, extension, image, held_out=False)

        self._to_hold_out, others = self._choice.decide(len(self.texts))
        # Equal images next to each other would make batches of one image.
        Random(self._settings.seed).shuffle(others)
        for pair, extension, image in self._good(others):
            yield self._members(pair, extension, image, held_out=False)

    def held_out_members(self) -> Iterator[Members]:
        """Yields those of the pairs to evaluate on.

        Raises:
            RuntimeError: Not all of `training_members` was read before.
        """
        if self._to_hold_out is None:
            raise RuntimeError("which pairs are held out is known when all images are read")
        for pair, extension, image in self._good(self._to_hold_out):
            yield self._members(pair, extension, image, held_out=True)

    def fewer(self) -> str:
        """A line if fewer pairs are held out than the setting asks for, else nothing."""
        held_out, wanted = len(self.held_out), self._choice.wanted
        if held_out >= wanted:
            return ""
        why = "some of their images were good at first, and could not be read again"
        if self._choice.repeats:
            why = (
                f"of the next images each comes {self._choice.repeats:,} times or more, and equal "
                f"images are not parted"
            )
        return f"held out {counted(held_out, 'pair')}, not {wanted:,}: {why}"

    def _good(
        self, pairs: Sequence[Pair], bar: tqdm[None] | None = None
    ) -> Iterator[tuple[Pair, str, bytes]]:
        """Yields each pair whose image is good, with the image's extension and bytes."""
        for pair, content in contents(pairs, first=not self._settings.skip_missing):
            if bar is not None:
                # Bad images count as well: the bar shows how much is read.
                bar.update()
            try:
                extension, image = _packed(content, pair.image.name)
            except (BadImage, OSError) as error:
                self._add_bad(pair.image, error)
            except NotFetched as error:
                self._add_missing(pair.image, error)
            else:
                yield pair, extension, image

    def _members(self, pair: Pair, extension: str, image: bytes, *, held_out: bool) -> Members:
        """Notes a pair among the written ones of its side."""
        if not held_out:
            self.sample.offer(pair, image)
        # A name may be any bytes.
        name = pair.image.name.encode("utf-8", "backslashreplace").decode()
        record = json.dumps({CAPTIONS: pair.texts, FIELD: name}, ensure_ascii=False)
        # Keys are unique among all shards.
        key = f"{len(self.texts) + len(self.held_out):09d}"
        (self.held_out if held_out else self.texts).append(pair.texts)
        # The first text is a member too, for readers that expect one caption.
        return key, {extension: image, "txt": pair.texts[0].encode(), "json": record.encode()}

    def _add_bad(self, image: Image, error: BadImage | OSError) -> None:
        reason = "files that are no images" if isinstance(error, NoImage) else "broken images"
        why = str(error)
        if isinstance(error, OSError):
            reason = "unreadable images"
            why = error.strerror or why
        self._left_out.add(reason, image.name, why=why)

        line = f"{shown(image.name)}: {shown(why)}"
        self._bad += 1
        self._first = self._first or line
        if self._bad <= _MOST_NAMED:
            tqdm.write(f"left out: {line}")
        if self._bad > self._most:
            share = self._settings.max_bad_share
            self._refuse(f"more than max_bad_share={share:g} allows")

    def _add_missing(self, image: Image, error: NotFetched) -> None:
        if not self._settings.skip_missing:
            raise UserError(f"{shown(image.name)}: cannot be fetched ({error}); {HOW_TO_SKIP}")
        self._left_out.add(MISSING, image.name, why=str(error))
        self._first = self._first or f"{shown(image.name)}: {error}"

    def refuse_none(self) -> None:
        """Refuses to write shards without a pair."""
        if not self.texts:
            self._bad = self._pairs
            self._refuse("hence no pair is left")

    def refuse_none_held_out(self) -> None:
        """Refuses shards without a held-out pair."""
        if not self.held_out:
            raise UserError(
                f"held_out={self._settings.held_out:g}: none of the images that were chosen could "
                f"be read again; first {self._first}; repair them or leave them out"
            )

    def _refuse(self, why: str) -> None:
        raise UserError(
            f"{self._bad:,} of {counted(self._pairs, 'image')} {are(self._bad)} bad, {why}; first "
            f"{self._first}; repair them or leave them out"
        )


def read_image(image: Image) -> tuple[str, bytes]:
    """The extension and the bytes of an image that go into the shard; see `content.packed`."""
    return packed(image.read(), image.name)


def _packed(content: Content, name: str) -> tuple[str, bytes]:
    if isinstance(content, Exception):
        raise content
    return packed(content, name)
