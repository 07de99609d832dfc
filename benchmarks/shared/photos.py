"""The shards that `benchmarks.loader` reads: 51 real photos with captions, as some 2,000 pairs.

Each photo is reduced with an antialiased filter and stored once as a JPEG of quality 90. It is
written once per caption and repetition, under distinct keys, into 8 shards of 255 pairs: one per
worker for up to 8 workers. That is enough to time decoding. It does not fill a shuffle buffer of
5,000 pairs, so a loader with one of that size needs more memory on real data.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

from PIL import Image

from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import MANIFEST_NAME
from align_train.shards.resolve import resolve
from align_train.shards.write import write_shard
from align_train.stream.wordpiece import train_tokenizer
from benchmarks.shared.children import REPOSITORY

PHOTOS = REPOSITORY.parent / "shared" / "data" / "photos"

SHARDS = 8
QUALITY = 90  # of JPEG
VOCABULARY = 4096  # tokens
CAPTIONS = 5  # of a photo, at most

CASES = {
    "long-500": "long side 500, as most photos of the web's data sets are (500 x 375)",
    "short-384": "img2dataset's keep_ratio at image_size 384: the shorter side is 384 (512 x 384)",
    "long-384": "img2dataset's keep_ratio_largest at image_size 384: the longer side is 384 "
    "(384 x 288)",
}


def photos(folder: Path) -> list[Path]:
    """Returns the photos in a fixed order.

    Raises:
        SystemExit: There are none.
    """
    paths = sorted(folder.glob("*.jpg"))
    if not paths:
        raise SystemExit(f"{folder}: no *.jpg there; name a folder of photos on the command line")
    return paths


def case_size(case: str, width: int, height: int) -> tuple[int, int]:
    """Returns the width and height at which a case stores a photo.

    A smaller photo stays as it is (img2dataset: resize_only_if_bigger).
    """
    which, _, side = case.partition("-")
    measured = max(width, height) if which == "long" else min(width, height)
    scale = int(side) / measured
    if scale >= 1:
        return width, height
    return round(width * scale), round(height * scale)


def jpeg_of(path: Path, case: str | None) -> bytes:
    """Returns a photo as a case stores it.

    Args:
        path: The photo.
        case: One of `CASES`; None: the file as it is.
    """
    if case is None:
        return path.read_bytes()

    with Image.open(path) as image:
        size = case_size(case, *image.size)
        reduced = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    reduced.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def captions(folder: Path) -> dict[str, list[str]]:
    """Returns the texts of each photo, by the name of its file."""
    texts: dict[str, list[str]] = {}
    with (folder / "captions.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            texts.setdefault(row["file"], []).append(row["text"])
    return texts


def pairs_of(images: dict[str, bytes], texts: dict[str, list[str]]) -> list[tuple[bytes, str]]:
    """Pairs each image with its captions.

    Args:
        images: JPEGs by the name of the photo's file.
        texts: Captions by the same names.
    """
    pairs = []
    for name, image in images.items():
        for text in texts[name][:CAPTIONS]:
            pairs.append((image, text))
    return pairs


def make_vocabulary(source: Path, folder: Path) -> None:
    """Trains a tokenizer on the captions of `source` and writes it into `folder`."""
    texts = []
    for group in captions(source).values():
        texts.extend(group)
    train_tokenizer(lambda: [texts], size=VOCABULARY, folder=folder)


def make_shards(source: Path, folder: Path, case: str) -> None:
    """Writes a case's shards, their indices and their manifest.

    Args:
        source: The folder of the photos and their captions.
        folder: The folder of the shards; its former content is deleted.
        case: One of `CASES`.
    """
    images = {path.name: jpeg_of(path, case) for path in photos(source)}
    pairs = pairs_of(images, captions(source))
    shutil.rmtree(folder, ignore_errors=True)

    def members(shard: int) -> Iterator[tuple[str, dict[str, bytes]]]:
        shuffled = Random(shard).sample(pairs, len(pairs))
        for index, (image, text) in enumerate(shuffled, start=shard * len(pairs)):
            yield f"{index:09d}", {"jpg": image, "txt": text.encode()}

    for shard in range(SHARDS):
        write_shard(folder / f"{shard:05d}.tar", members(shard))
    write_manifest(folder)


def write_manifest(folder: Path) -> None:
    """Writes the indices and the manifest of a folder of shards."""
    # `resolve` writes the indices where they are missing.
    manifest = resolve(str(folder), caption=CaptionSource.parse("txt"), progress=False)
    manifest.write(folder / MANIFEST_NAME)
