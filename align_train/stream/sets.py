"""Sets of images that evaluators may name as their `data`, beside a run's held-out pairs.

Here are WebDataset shards, and a folder per class (ImageNet and its variants); `karpathy.py` has
the splits of COCO and Flickr30K. A set of your own is a class with `open`, named by `_target_`.

A run opens its sets when it begins, not when it first evaluates them. An image that cannot be read
is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from align_train.cluster.launcher import is_first_process
from align_train.cluster.sharing import from_first, note_progress
from align_train.errors import UserError, shown
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.find import find_files, find_folders
from align_train.shards.found_caption import found_caption
from align_train.shards.image_kind import is_image
from align_train.shards.left_out import LeftOut
from align_train.shards.manifest import Manifest
from align_train.shards.members import ANY, Members
from align_train.shards.resolve import resolve
from align_train.stream.classes import ClassList
from align_train.stream.decode import Pixels, Views
from align_train.stream.held_out import HeldOutPairs
from align_train.stream.labelled_files import LabelledFiles
from align_train.stream.pairs import Pairs
from align_train.stream.records import About
from align_train.stream.vocabulary import Vocabulary, source_of


class OpenSet(Protocol):
    """An open set: as a torch dataset it gives the images, as they are evaluated."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pixels: ...

    def about(self) -> About:
        """Returns the texts and the record (labels and the like) of every image."""
        ...


class ImageSet(Protocol):
    """A set of images, as settings describe it."""

    def open(self, of: EvaluationSets) -> OpenSet:
        """Opens the set.

        Args:
            of: Has the run's vocabulary, views and shard cache.

        Raises:
            UserError: The set is not there.
        """
        ...


class EvaluationSets:
    """The sets that evaluators see, each opened once: their own, or the held-out pairs."""

    def __init__(
        self,
        *,
        held_out: str | Sequence[str] | None,
        caption: str | Sequence[str] | None,
        vocabulary: Vocabulary,
        views: Views,
        cache: ShardCache,
        members: Members = ANY,
        progress: bool = True,
        key: str = "data.held_out",
    ) -> None:
        """Resolves the held-out shards.

        Args:
            held_out: As `data.held_out`; None: there are no held-out pairs.
            caption: The members or fields that hold their texts, or labels; None: found out.
            vocabulary: The model's.
            views: Decide how an image is evaluated.
            cache: Where shards are fetched to.
            members: How members of the tars make pairs.
            progress: Show a bar while shards are counted.
            key: The setting that names the held-out shards, for errors.

        Raises:
            UserError: The held-out shards are not there.
        """
        self.vocabulary = vocabulary
        self.views = views
        self.cache = cache
        self.members = members
        self.caption: CaptionSource | None = None
        self.held_out: Manifest | None = None
        if held_out is not None:
            self.caption = self.source(held_out, caption, members, key)
            self.held_out = resolve(
                held_out,
                caption=self.caption,
                members=members,
                cache=cache,
                progress=progress,
                key=key,
            )
        self._opened: dict[str, OpenSet] = {}

    def source(
        self,
        shards: str | Sequence[str],
        caption: str | Sequence[str] | None,
        members: Members,
        key: str,
    ) -> CaptionSource:
        """Returns where the texts of some shards lie, or their labels. Collective.

        Args:
            shards: As `data.shards` takes them.
            caption: As `data.caption`; None: it is found out.
            members: How members of the tars make pairs.
            key: The setting of the shards, for errors.

        Raises:
            UserError: The setting names no place, or there are no texts in the first pairs.
        """
        if caption is None:
            labels = isinstance(self.vocabulary, ClassList)
            caption = found_caption(
                shards, members=members, cache=self.cache, labels=labels, key=key
            )
            say_found(shards, caption, labels=labels)
        return source_of(CaptionSource.parse(caption), self.vocabulary)

    def images_of(self, data: ImageSet | None) -> OpenSet:
        """Returns a set, opened; None: the held-out pairs.

        Raises:
            UserError: The set is not there, or the run has no held-out pairs.
        """
        # Two evaluators may name equal sets in two nodes: these are equal in their text only.
        name = repr(data)
        if name not in self._opened:
            self._opened[name] = self._held_out_pairs() if data is None else data.open(self)
        return self._opened[name]

    def _held_out_pairs(self) -> HeldOutPairs:
        if self.held_out is None or self.caption is None:
            raise UserError(
                "data.held_out is not set; give data.held_out=…, or evaluators with data of their "
                "own"
            )
        pairs = Pairs(
            manifest=self.held_out,
            caption=self.caption,
            views=self.views,
            members=self.members,
            cache=self.cache,
        )
        return HeldOutPairs(pairs=pairs)


def say_found(
    shards: str | Sequence[str], caption: str | Sequence[str], *, labels: bool = False
) -> None:
    """Prints the captions that were found out: one line, on the first process.

    Args:
        shards: The shards.
        caption: What `found_caption` returned.
        labels: Whether they are labels.
    """
    if is_first_process():
        place = shards if isinstance(shards, str) else ", ".join(shards)
        what = "labels" if labels else "captions"
        print(f"{shown(place)}: {what} in {CaptionSource.parse(caption)}, found out", flush=True)


@dataclass(frozen=True, kw_only=True)
class Shards:
    """WebDataset shards.

    Attributes:
        shards: As `data.shards` takes them.
        caption: As `data.caption`, or a member with a label, such as `cls`; None: found out.
        limit: Only the first so many pairs; None: all.
        image: As `data.image`.
        keys: As `data.keys`.
    """

    shards: str | Sequence[str]
    caption: str | Sequence[str] | None = None
    limit: int | None = None
    image: str | None = None
    keys: str | None = None

    def open(self, of: EvaluationSets) -> HeldOutPairs:
        """Resolves the shards; UserError if they are not there."""
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit={self.limit}: expected at least 1 pair, or null")

        members = Members.parse(self.image, self.keys, prefix="eval: ")
        source = of.source(self.shards, self.caption, members, "eval: shards")
        manifest = resolve(
            self.shards,
            caption=source,
            members=members,
            cache=of.cache,
            progress=False,
            key="eval: shards",
        )
        pairs = Pairs(
            manifest=manifest, caption=source, views=of.views, members=members, cache=of.cache
        )
        return HeldOutPairs(pairs=pairs, limit=self.limit)


@dataclass(frozen=True, kw_only=True)
class FolderPerClass:
    """A folder with one folder per class, and images in these at any depth.

    So lie ImageNet's validation set, sorted by synset, and ImageNet-A, -R, -V2 and -Sketch. The
    name of the folder is the image's class, and its text. Images are known by their content.

    Attributes:
        path: The folder.
    """

    path: str

    def open(self, of: EvaluationSets) -> LabelledFiles:
        """Lists the images; UserError if there are none, or a class has none."""
        listed = from_first(f"images {self.path}", self._list)
        files = [Path(path) for path, _ in listed]
        texts = [[name] for _, name in listed]
        records = [{"class": name} for _, name in listed]
        return LabelledFiles(files, texts, records, of.views)

    def _list(self) -> list[tuple[str, str]]:
        """Each image with the name of its class."""
        root = Path(self.path).expanduser()
        if not root.is_dir():
            raise UserError(
                f"{self.path}: no such folder; expected one with a folder of images per class"
            )

        classes = find_folders(root, is_image)
        left_out = LeftOut.of("files beside the class folders", classes.others)
        left_out.update(classes.left_out)

        listed: list[tuple[str, str]] = []
        for folder in classes.files:
            found = find_files(folder, is_image, deep=True)
            left_out.update(found.left_out)
            for path in found.others:
                left_out.add("files without an image", path)

            if not found.files:
                raise UserError(f"{folder}: a class without an image; fill or remove it")
            listed += [(str(path), folder.name) for path in found.files]
            note_progress()

        # Also before the error: it may be what is missing.
        left_out.say(self.path)
        if not listed:
            raise UserError(f"{self.path}: no folders in it; expected a folder of images per class")
        return listed
