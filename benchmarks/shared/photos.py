"""The shards that `benchmarks.loader` reads: 51 real photos with their captions, repeated to about 2,000 pairs.

Each photo is reduced with an antialiased filter, encoded once as JPEG of quality 90, and written once per caption and
repetition, under distinct keys: 8 shards of 255 pairs, one per worker for up to 8 workers. That is enough to time
decoding; it does not fill a shuffle buffer of 5,000 pairs, so a loader that has one needs more memory on real data.
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
from benchmarks.shared.children import TOP

PHOTOS = TOP.parent / "shared" / "data" / "photos"


SHARDS = 8


QUALITY = 90


VOCABULARY = 4096


CASES = {
    "long-500": "long side 500, as most photos of the web's data sets are (500 x 375)",
    "short-384": "img2dataset's keep_ratio at image_size 384: the shorter side is 384 (512 x 384)",
    "long-384": "img2dataset's keep_ratio_largest at image_size 384: the longer side is 384 (384 x 288)",
}


def photos(folder: Path) -> list[Path]:
    """The photos in a fixed order; exits with one line where there are none."""
    found = sorted(folder.glob("*.jpg"))
    if not found:
        raise SystemExit(f"{folder}: no *.jpg there; name a folder of photos on the command line")
    return found


def case_size(case: str, width: int, height: int) -> tuple[int, int]:
    """The size in which a case stores a photo; a smaller photo stays as it is (img2dataset: resize_only_if_bigger)."""
    which, _, side = case.partition("-")
    scale = int(side) / (max if which == "long" else min)(width, height)
    return (round(width * scale), round(height * scale)) if scale < 1 else (width, height)


def encoded(path: Path, case: str | None) -> bytes:
    """A photo as the case stores it; None: the file as it is."""
    if case is None:
        return path.read_bytes()
    with Image.open(path) as image:
        reduced = image.convert("RGB").resize(
            case_size(case, *image.size), Image.Resampling.LANCZOS
        )
    file = io.BytesIO()
    reduced.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def captions(folder: Path) -> dict[str, list[str]]:
    """The texts of each photo, by its file name."""
    texts: dict[str, list[str]] = {}
    with (folder / "captions.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            texts.setdefault(row["file"], []).append(row["text"])
    return texts


def make_vocabulary(source: Path, folder: Path) -> None:
    texts = [text for group in captions(source).values() for text in group]
    train_tokenizer(lambda: [texts], size=VOCABULARY, folder=folder)


def make_shards(source: Path, folder: Path, case: str) -> None:
    """Writes the case's shards, their indices and their manifest into a new folder."""
    texts = captions(source)
    pictures = {path.name: encoded(path, case) for path in photos(source)}
    visits = [(name, text) for name in pictures for text in texts[name][:5]]
    shutil.rmtree(folder, ignore_errors=True)

    def members(shard: int) -> Iterator[tuple[str, dict[str, bytes]]]:
        for number, (name, text) in enumerate(Random(shard).sample(visits, len(visits))):
            yield (
                f"{shard * len(visits) + number:09d}",
                {"jpg": pictures[name], "txt": text.encode()},
            )

    for shard in range(SHARDS):
        write_shard(folder / f"{shard:05d}.tar", members(shard))
    manifest = resolve(
        str(folder), caption=CaptionSource.parse("txt"), progress=False
    )  # builds the indices too
    manifest.write(folder / MANIFEST_NAME)
