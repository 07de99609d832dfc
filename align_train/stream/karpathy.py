"""Karpathy's splits of COCO and Flickr30K: images with several captions each.

The files `dataset_coco.json` and `dataset_flickr30k.json` list them (Karpathy and Fei-Fei 2015).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from align_train.cluster.sharing import from_first
from align_train.errors import UserError
from align_train.shards.caption import is_unicode
from align_train.stream.labelled_files import LabelledFiles
from align_train.stream.records import Record
from align_train.stream.sets import EvaluationSets


@dataclass(frozen=True, kw_only=True)
class Karpathy:
    """The images of one split.

    Attributes:
        file: Karpathy's JSON file.
        images: The folder that holds `filepath/filename`, or the images themselves.
        split: `train`, `val`, `test` or `restval`.
        captions: Only the first so many of each image; None: all. By custom five count, and some of
            COCO's images have more.
    """

    file: str
    images: str
    split: str = "test"
    captions: int | None = None

    def open(self, of: EvaluationSets) -> LabelledFiles:
        """Reads the list; UserError if it is no such file, or an image or caption is missing."""
        if self.captions is not None and self.captions < 1:
            raise UserError(f"captions={self.captions}: expected at least 1, or null")

        rows, paths = from_first(f"images {self}", self._find)
        files = [Path(path) for path in paths]
        texts = [_captions_of(row)[: self.captions] for row in rows]
        bare = [path for path, captions in zip(files, texts, strict=True) if not captions]
        if bare:
            raise UserError(
                f"{self.file}: {len(bare)} images have no caption, first {bare[0].name}; "
                f"caption them, or take them out"
            )

        records = [{"filename": path.name} for path in files]
        return LabelledFiles(files, texts, records, of.views)

    def _find(self) -> tuple[list[Record], list[str]]:
        """The split's rows, and the file of each."""
        rows = self._rows()
        root = Path(self.images).expanduser()
        files = [_file_of(row, root) for row in rows]
        missing = [path for path in files if not path.is_file()]
        if missing:
            raise UserError(
                f"{self.file}: {len(missing)} of {len(files)} images with captions are not in "
                f"images={self.images}, first {missing[0]}; add them, or name their folder"
            )
        return rows, [str(path) for path in files]

    def _rows(self) -> list[Record]:
        path = Path(self.file).expanduser()
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))["images"]
            if not all(_is_row(row) for row in rows):
                raise ValueError
            splits = sorted({str(row["split"]) for row in rows})
        except OSError as error:
            raise UserError(
                f"{self.file}: {error.strerror}; expected Karpathy's JSON, such as "
                f"dataset_coco.json"
            ) from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(
                f"{self.file}: expected Karpathy's JSON: images, each with filename, split and "
                f"sentences, each with raw"
            ) from None

        of_split = [row for row in rows if row["split"] == self.split]
        if not of_split:
            raise UserError(
                f"{self.file}: no image of split={self.split}; there are "
                f"{', '.join(splits) or 'none'}"
            )
        return of_split


def _is_row(row: Record) -> bool:
    return isinstance(row["filename"], str) and isinstance(row["sentences"], list)


def _file_of(row: Record, root: Path) -> Path:
    # COCO's images lie in folders by year; many people keep them in one.
    name = str(row["filename"])
    nested = root / str(row.get("filepath", "")) / name
    return nested if nested.is_file() else root / name


def _captions_of(row: Record) -> list[str]:
    captions = []
    for sentence in row["sentences"]:
        text = sentence.get("raw") if isinstance(sentence, dict) else None
        # Half of a surrogate pair, which JSON can spell, is no text to any tokenizer.
        if isinstance(text, str) and is_unicode(text) and text.strip():
            captions.append(text.strip())
    return captions
