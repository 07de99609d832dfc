"""Perceptual hashes (pHash: 64 bits of a picture's low frequencies), by which near-duplicates of evaluation pictures are found.

The hash is the ImageHash library's `phash`, 16 hexadecimal digits as in COYO-700M's column `image_phash`. Evaluation pictures
are a folder of pictures, WebDataset shards, or a parquet file with such a column. Price: about 300 pictures a second and core.
"""

from __future__ import annotations

import io
import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pyarrow import parquet
from tqdm import tqdm

from align_train.errors import UserError
from align_train.shards.caption import CaptionSource
from align_train.shards.shard import ShardReader
from align_train.shards.tar_index import IMAGE_EXTENSIONS
from data.tables.engine import ROWS_PER_FILE

HASH_COLUMN = "image_phash"


_DIGITS = 16


def perceptual_hash(picture: bytes | Path) -> str | None:
    """16 hexadecimal digits; None where the bytes are no picture. Transparent pictures are laid on white."""
    import imagehash

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(
                io.BytesIO(picture) if isinstance(picture, bytes) else picture
            )
            image.draft(
                "L", (256, 256)
            )  # a JPEG's smaller scales do: the hash looks at 32 x 32 pixels
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return str(imagehash.phash(image))
    except (
        OSError,
        UnidentifiedImageError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
        Warning,
    ):
        return None


def hashes_of(place: str) -> NDArray[np.uint64]:
    """The hashes of evaluation pictures; UserError where there are none."""
    path = Path(place).expanduser()
    key = f"rules.near_duplicates.of={place}"
    if path.is_file() and path.suffix == ".parquet":
        found: Iterable[str | None] = _column(path, key)
    elif path.is_file() and path.suffix == ".tar":
        found = _of_shard(path)
    elif path.is_dir():
        pictures = sorted(
            item for item in path.rglob("*") if item.suffix.lower().lstrip(".") in IMAGE_EXTENSIONS
        )
        shards = sorted(path.glob("*.tar"))
        with ProcessPoolExecutor() as pool:
            parts = [
                *pool.map(
                    perceptual_hash, tqdm(pictures, desc="hashing pictures", delay=1), chunksize=64
                )
            ]
            found = [
                *parts,
                *itertools.chain(
                    *pool.map(_of_shard, tqdm(shards, desc="hashing shards", delay=1))
                ),
            ]
    else:
        raise UserError(
            f"{key}: no such folder of pictures or shards, or parquet file with {HASH_COLUMN}"
        )
    numbers = sorted({int(text, 16) for text in found if text})
    if not numbers:
        raise UserError(
            f"{key}: no pictures there; expected {', '.join(IMAGE_EXTENSIONS)}, or shards with them"
        )
    return np.array(numbers, dtype=np.uint64)


def _column(path: Path, key: str) -> list[str | None]:
    try:
        table = parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{key}: not a readable parquet file ({str(error).splitlines()[0]})"
        ) from None
    if HASH_COLUMN not in table.column_names:
        raise UserError(f"{key}: no column {HASH_COLUMN}; it has {', '.join(table.column_names)}")
    texts: list[str | None] = table[HASH_COLUMN].cast(pa.string()).to_pylist()
    for text in texts:
        if text is not None and (
            len(text) != _DIGITS or set(text.lower()) - set("0123456789abcdef")
        ):
            raise UserError(
                f"{key}: {text!r} in {HASH_COLUMN} is no hash; expected {_DIGITS} hexadecimal digits"
            )
    return texts


def _of_shard(path: Path) -> list[str | None]:
    return list(hashes_by_key(path).values())


def hashes_by_key(path: Path) -> dict[str, str | None]:
    """The hash of each picture of a tar, by its key."""
    reader = ShardReader(path, CaptionSource("txt", None))
    try:
        keys = (reader.key(pair).partition("/")[2] for pair in range(len(reader)))
        return dict(zip(keys, map(perceptual_hash, _pictures(reader)), strict=True))
    finally:
        reader.close()


def _pictures(reader: ShardReader) -> Iterator[bytes]:
    for pair in range(len(reader)):
        try:
            yield reader.picture(pair)
        except ValueError:  # a link: no picture, no hash
            yield b""


@dataclass(frozen=True)
class Probes:
    """Hashes to look for, cut into blocks. hashes: 64 bits each; distance: how many bits a near-duplicate may differ in."""

    hashes: NDArray[np.uint64]
    distance: int

    @cached_property
    def blocks(self) -> Sequence[tuple[int, int]]:
        """(first digit, digits) of each block: with one more than half the distance, one of them differs in a bit at most."""
        edges = [_DIGITS * block // self._count for block in range(self._count + 1)]
        return [(start, end - start) for start, end in itertools.pairwise(edges)]

    @property
    def _count(self) -> int:
        return self.distance // 2 + 1

    def table(self, number: int) -> pa.Table:
        """What a row's block may be, and the hash that it is then to be compared with: (block, high, low)."""
        start, length = self.blocks[number]
        bits = 4 * length
        values = (self.hashes >> np.uint64(64 - 4 * start - bits)) & np.uint64(2**bits - 1)
        flips = np.array(
            [0, *(1 << bit for bit in range(bits))] if self.distance else [0], dtype=np.uint64
        )
        near = (values[:, None] ^ flips[None, :]).ravel()
        whole = np.repeat(self.hashes, len(flips))
        return pa.table(
            {
                "block": hexadecimal(near, length),
                "high": (whole >> np.uint64(32)).astype(np.int64),
                "low": (whole & np.uint64(2**32 - 1)).astype(np.int64),
            }
        )


def hexadecimal(numbers: NDArray[np.uint64], digits: int) -> pa.Array:
    """The last digits of each number, as texts."""
    nibbles = (numbers[:, None] >> np.arange(4 * digits - 4, -1, -4).astype(np.uint64)) & np.uint64(
        15
    )
    letters = np.ascontiguousarray(
        np.frombuffer(b"0123456789abcdef", dtype=np.uint8)[nibbles.astype(np.uint8)]
    )
    ends = np.arange(0, digits * len(numbers) + 1, digits, dtype=np.int64)
    return pa.LargeStringArray.from_buffers(
        len(numbers), pa.py_buffer(ends), pa.py_buffer(letters)
    ).cast(pa.string())


def hash_shards(tables: Sequence[Path], folder: Path) -> None:
    """Hashes the pictures of img2dataset's shards: a parquet file of (row, phash) for each, those that are there are left.

    tables: the shards' parquet files, in the order that numbers their rows.
    """
    folder.mkdir(exist_ok=True)
    missing = [
        (number, table) for number, table in enumerate(tables) if not (folder / table.name).exists()
    ]
    with ProcessPoolExecutor() as pool:
        jobs = [
            pool.submit(_hash_shard, table, number, folder / table.name)
            for number, table in missing
        ]
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="hashing pictures", unit="shard"):
            job.result()


def _hash_shard(table: Path, number: int, place: Path) -> None:
    hashes = hashes_by_key(table.with_suffix(".tar"))
    keys = parquet.read_table(table, columns=["key"])["key"].to_pylist()
    rows = [
        (number * ROWS_PER_FILE + at, hashes[key]) for at, key in enumerate(keys) if hashes.get(key)
    ]
    aside = place.with_name(f".{place.name}.{os.getpid()}")
    parquet.write_table(
        pa.table(
            {
                "row": pa.array([row for row, _ in rows], pa.int64()),
                "phash": pa.array([text for _, text in rows], pa.string()),
            }
        ),
        aside,
    )
    os.replace(aside, place)
