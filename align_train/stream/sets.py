"""Sets of pictures that evaluators may name as their `data`, beside a run's held-out pairs: shards, a folder per class
(ImageNet and its variants), Karpathy's splits of COCO and Flickr30K.

What one names is looked for when a run begins, not when it is first evaluated. A picture that cannot be read is an error.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import Dataset

from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.caption import is_unicode
from align_train.shards.manifest import Manifest
from align_train.shards.resolve import resolve
from align_train.shards.tar_index import IMAGE_EXTENSIONS
from align_train.stream.classes import ClassList
from align_train.stream.decode import Pixels, Views, decode_centre
from align_train.stream.held_out import HeldOutPairs
from align_train.stream.pairs import Pairs
from align_train.stream.tokenizer import Tokenizer
from align_train.stream.vocabulary import source_of


class EvaluationSets:
    """What evaluators see: their own sets, or the held-out pairs, each opened once.

    held_out, caption: as `data.held_out` and `data.held_out_caption`; the former may be None. vocabulary: of the model.
    """

    def __init__(
        self,
        *,
        held_out: str | Sequence[str] | None,
        caption: str,
        vocabulary: Tokenizer | ClassList,
        views: Views,
        stage: ShardCache,
        progress: bool = True,
        key: str = "data.held_out",
    ) -> None:
        self.vocabulary, self.views, self.stage = vocabulary, views, stage
        self.caption = source_of(caption, vocabulary)
        self.held_out: Manifest | None = None
        if held_out is not None:
            self.held_out = resolve(
                held_out, caption=self.caption, stage=stage, progress=progress, key=key
            )
        self._opened: dict[str, LabelledFiles | HeldOutPairs] = {}

    def images_of(self, data: ImageSet | None) -> LabelledFiles | HeldOutPairs:
        """None: the held-out pairs; UserError where there are none."""
        if repr(data) not in self._opened:
            self._opened[repr(data)] = self._held_out_pairs() if data is None else data.open(self)
        return self._opened[repr(data)]

    def _held_out_pairs(self) -> HeldOutPairs:
        if self.held_out is None:
            raise UserError(
                "data.held_out is not set; give data.held_out=…, or evaluators with data of their own"
            )
        pairs = Pairs(
            manifest=self.held_out, caption=self.caption, views=self.views, stage=self.stage
        )
        return HeldOutPairs(pairs=pairs)


class ImageSet(Protocol):
    """Where pictures lie, as settings say it."""

    def open(self, of: EvaluationSets) -> LabelledFiles | HeldOutPairs:
        """UserError in one line for what is not there."""
        ...


@dataclass(frozen=True, kw_only=True)
class Shards:
    """WebDataset shards, as `data.shards` takes them. caption: `txt`, or `json:FIELD`, or a member with a label, such as `cls`.
    limit: the first so many pairs."""

    shards: str | Sequence[str]
    caption: str = "txt"
    limit: int | None = None

    def open(self, of: EvaluationSets) -> HeldOutPairs:
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit={self.limit}: expected at least 1 pair, or null")
        source = source_of(self.caption, of.vocabulary)
        manifest = resolve(
            self.shards, caption=source, stage=of.stage, progress=False, key="eval: shards"
        )
        return HeldOutPairs(
            pairs=Pairs(manifest=manifest, caption=source, views=of.views, stage=of.stage),
            limit=self.limit,
        )


@dataclass(frozen=True, kw_only=True)
class FolderPerClass:
    """A folder with one folder per class, pictures in them at any depth: ImageNet's validation set sorted by synset,
    ImageNet-A, -R, -V2, -Sketch, or your own. A picture's class, and its text, is the name of the folder."""

    path: str

    def open(self, of: EvaluationSets) -> LabelledFiles:
        root = Path(self.path).expanduser()
        if not root.is_dir():
            raise UserError(
                f"{self.path}: no such folder; expected one with a folder of pictures per class"
            )
        files: list[Path] = []
        names: list[str] = []
        for folder in sorted(
            path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")
        ):
            found = sorted(
                path
                for path in folder.rglob("*")
                if path.suffix.lower().lstrip(".") in IMAGE_EXTENSIONS
            )
            if not found:
                raise UserError(
                    f"{folder}: a class without a picture ({', '.join(IMAGE_EXTENSIONS)}); fill or remove it"
                )
            files += found
            names += [folder.name] * len(found)
        if not files:
            raise UserError(
                f"{self.path}: no folders in it; expected a folder of pictures per class"
            )
        return LabelledFiles(
            files, [[name] for name in names], [{"class": name} for name in names], of.views
        )


@dataclass(frozen=True, kw_only=True)
class Karpathy:
    """Pictures with several captions each, as Karpathy's `dataset_coco.json` and `dataset_flickr30k.json` list them
    (Karpathy and Fei-Fei 2015). images: the folder that holds `filepath/filename`, or the pictures themselves. captions: the
    first so many of each (some of COCO's have more than the five that count by custom); None: all."""

    file: str
    images: str
    split: str = "test"
    captions: int | None = None

    def open(self, of: EvaluationSets) -> LabelledFiles:
        rows = self._rows()
        root = Path(self.images).expanduser()
        files = [self._picture(row, root) for row in rows]
        missing = [path for path in files if not path.is_file()]
        if missing:
            raise UserError(
                f"{self.file}: {len(missing)} of {len(files)} pictures with captions are not in images={self.images}, first "
                f"{missing[0]}"
            )
        if self.captions is not None and self.captions < 1:
            raise UserError(f"captions={self.captions}: expected at least 1, or null")
        texts = [
            [text for text in map(_caption, row["sentences"]) if text][: self.captions]
            for row in rows
        ]
        bare = [path for path, own in zip(files, texts, strict=True) if not own]
        if bare:
            raise UserError(
                f"{self.file}: {len(bare)} pictures have no caption, first {bare[0].name}"
            )
        return LabelledFiles(files, texts, [{"filename": path.name} for path in files], of.views)

    def _rows(self) -> list[dict[str, Any]]:
        try:
            rows = json.loads(Path(self.file).expanduser().read_text(encoding="utf-8"))["images"]
            if any(
                not isinstance(row["filename"], str) or not isinstance(row["sentences"], list)
                for row in rows
            ):
                raise ValueError
            splits = sorted({str(row["split"]) for row in rows})
        except OSError as error:
            raise UserError(
                f"{self.file}: {error.strerror}; expected Karpathy's JSON, such as dataset_coco.json"
            ) from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(
                f"{self.file}: expected Karpathy's JSON: images, each with filename, split and sentences, each with raw"
            ) from None
        of_split = [row for row in rows if row["split"] == self.split]
        if not of_split:
            raise UserError(
                f"{self.file}: no picture of split={self.split}; there are {', '.join(splits) or 'none'}"
            )
        return of_split

    @staticmethod
    def _picture(row: dict[str, Any], root: Path) -> Path:
        name = str(row["filename"])
        nested = root / str(row.get("filepath", "")) / name
        return nested if nested.is_file() else root / name


def _caption(sentence: Any) -> str:
    text = sentence.get("raw") if isinstance(sentence, dict) else None
    return text.strip() if isinstance(text, str) and is_unicode(text) else ""


class LabelledFiles(Dataset[Pixels]):
    """Pictures in files, as they are evaluated; texts and record of each."""

    def __init__(
        self, files: list[Path], texts: list[list[str]], records: list[dict[str, Any]], views: Views
    ) -> None:
        self.files, self.texts, self.records, self.views = files, texts, records, views

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Pixels:
        file = self.files[number]
        try:
            return decode_centre(file.read_bytes(), self.views)
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None
        except ValueError as error:
            raise UserError(
                f"{file}: {error}; pictures to evaluate on must be whole: repair or remove it"
            ) from None

    def about(self) -> list[tuple[list[str], dict[str, Any]]]:
        return list(zip(self.texts, self.records, strict=True))
