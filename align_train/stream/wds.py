"""Evaluation sets in the layout of CLIP_benchmark's `wds_*` data sets, see `wds_files.py`.

An image has its label in `.cls` (a class's number), its labels in `.npy` (a 1 for each of its
classes), or its captions in `.txt`, one a line. A set is read as every set here is: through the
shard cache, from any place that fsspec reaches, and an image that cannot be read is an error.

Price: the text files when it is opened; its tars when its images are first asked for.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from align_train.cluster.sharing import from_first
from align_train.errors import UserError, shown
from align_train.shards.caption import CaptionSource, TextPlace
from align_train.shards.remote import is_url
from align_train.shards.resolve import resolve
from align_train.stream.decode import Pixels
from align_train.stream.held_out import HeldOutPairs
from align_train.stream.pairs import Pairs
from align_train.stream.records import About
from align_train.stream.sets import EvaluationSets
from align_train.stream.wds_files import Description, Kind, WdsFiles

CLASS = "class"
"""The field of a record with the number of an image's class."""

CLASSES = "classes"
"""The field of a record with the numbers of an image's classes."""


# What errors name: no setting names the tars of a set.
_KEY = "tars"

_FIX = "mend dataset_type.txt, which says what the members of an image are, or the tars"


@dataclass(frozen=True, kw_only=True)
class WdsSet:
    """One evaluation set.

    Attributes:
        folder: The folder of the set: a path, or any fsspec URL.
        split: `test`, `train`, …: the folder of its tars.
        language: Of class names and prompts, see `wds_files.py`; None: those without a language.
        name: The name in CLIP_benchmark's files and tables, such as `vtab/cifar10`; None: the
            folder's.
        classnames: A file with a class a line, or CLIP_benchmark's JSON with the classes of several
            sets; `{language}` stands for the language. None: the set's own.
        templates: The same of the prompts.
    """

    folder: str
    split: str = "test"
    language: str | None = None
    name: str | None = None
    classnames: str | None = None
    templates: str | None = None

    @property
    def title(self) -> str:
        """The name in tables."""
        # CLIP_benchmark's repositories are called wds_NAME, and its tables say NAME.
        return self.name or self.folder.rstrip("/").rpartition("/")[2].removeprefix("wds_")

    def open(self, of: EvaluationSets) -> OpenWdsSet:
        """Reads the text files; UserError if one is missing, or not as expected."""
        if is_url(self.folder):
            folder = of.cache.pinned(self.folder.rstrip("/"))
        else:
            folder = str(Path(self.folder).expanduser().absolute())

        files = WdsFiles(
            folder=folder,
            split=self.split,
            language=self.language,
            keys=(f"wds/{self.title}", self.title),
            classnames=self.classnames,
            templates=self.templates,
            cache=of.cache,
        )

        def describe() -> list[Any]:
            found = files.describe()
            return [found.kind, found.shards, found.classes, found.templates]

        kind, shards, classes, templates = from_first(f"set {self}", describe)
        return OpenWdsSet(Description(kind, shards, tuple(classes), tuple(templates)), of)


class OpenWdsSet(Dataset[Pixels]):
    """An open set.

    Attributes:
        description: What its text files say.
    """

    def __init__(self, description: Description, of: EvaluationSets) -> None:
        """Looks for no tar yet.

        Args:
            description: What the text files say.
            of: Has the views and the shard cache.
        """
        self.description = description
        self._of = of

    @cached_property
    def pairs(self) -> HeldOutPairs:
        """The images with their labels or captions, in the order of the tars."""
        source = _SOURCES[self.description.kind]
        cache = self._of.cache
        manifest = resolve(
            self.description.shards, caption=source, cache=cache, progress=False, key=_KEY
        )
        return HeldOutPairs(
            pairs=Pairs(manifest=manifest, caption=source, views=self._of.views, cache=cache)
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pixels:
        return self.pairs[index]

    def about(self) -> About:
        """Returns the texts and the record of every image.

        Returns:
            Of retrieval the captions; of classification the name of the class, and the record
            `CLASS`; of several labels an image their names, and the record `CLASSES`.

        Raises:
            UserError: An image has no label, or one beyond the names of classes.
        """
        about = self.pairs.about()
        if self.description.kind == "retrieval":
            return about

        names = self.description.classes
        rows: About = []
        for texts, _ in about:
            numbers = list(map(int, texts[0].split()))
            if self.description.kind == "classification":
                self._check(numbers[0] < len(names), f"the label {numbers[0]}")
                rows.append(([names[numbers[0]]], {CLASS: numbers[0]}))
            else:
                length, *classes = numbers
                self._check(length == len(names), f"labels for {length} classes")
                rows.append(([names[index] for index in classes], {CLASSES: classes}))
        return rows

    def _check(self, fits: bool, label: str) -> None:
        """Refuses a label that does not fit the names of the classes."""
        if not fits:
            raise UserError(
                f"{self.description.shards}: an image has {label}, and there are "
                f"{len(self.description.classes)} class names; mend the names, a line each, or the "
                f"labels"
            )


@dataclass(frozen=True)
class _ClassNumber(CaptionSource):
    """A label in `.cls`."""

    fix = _FIX

    def read(self, member: bytes, place: int = 0) -> list[str]:
        text = member.decode("utf-8", "replace").strip()
        if not text.isascii() or not text.isdigit():
            raise ValueError(f"the label in cls: '{shown(text)}' is no number of a class")
        return [text]


@dataclass(frozen=True)
class _ClassVector(CaptionSource):
    """Labels in `.npy`: a 1 for each class of the image, and a 0 for each other one.

    They become one text: the length of the vector, then the classes.
    """

    fix = _FIX

    def read(self, member: bytes, place: int = 0) -> list[str]:
        try:
            # Never a pickle: it would run what a stranger wrote.
            vector = np.load(io.BytesIO(member), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"the labels in npy: no array of numbers ({error})") from None
        if vector.ndim != 1 or not np.isin(vector, (0, 1)).all():
            raise ValueError("the labels in npy: expected a vector of zeros and ones")
        return [" ".join(map(str, [len(vector), *np.flatnonzero(vector)]))]


@dataclass(frozen=True)
class _CaptionLines(CaptionSource):
    """Captions in `.txt`, one a line, taken as CLIP_benchmark takes them: empty ones too."""

    fix = _FIX

    def read(self, member: bytes, place: int = 0) -> list[str]:
        # Some editors begin a file with a byte-order mark, which is no part of the caption.
        lines = member.decode("utf-8-sig").splitlines()
        if not lines:
            raise ValueError("no caption in txt")
        return lines


_SOURCES: dict[Kind, CaptionSource] = {
    "classification": _ClassNumber((TextPlace("cls"),)),
    "multilabel": _ClassVector((TextPlace("npy"),)),
    "retrieval": _CaptionLines((TextPlace("txt"),)),
}
