"""Perceptual hashes, by which near-duplicates of evaluation images are found.

A pHash holds 64 bits of an image's low frequencies. This is the ImageHash library's `phash`: 16
hexadecimal digits, as in COYO-700M's column `image_phash`. Evaluation images are a folder of
images, WebDataset shards, or a parquet file with that column. Price: about 300 images a second and
core.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet
from tqdm import tqdm

from align_train.cluster.pools import processes
from align_train.errors import UserError, shown, shown_names
from align_train.files import whole
from align_train.shards.caption import CaptionSource
from align_train.shards.find import ends_with, find_files
from align_train.shards.image_kind import is_image
from align_train.shards.shard import ShardReader
from align_train.stream.bad_image import BadImage
from align_train.stream.upright import upright

from ..tables.batches import first_line
from ..tables.engine import ROWS_PER_FILE

HASH_COLUMN = "image_phash"

_TAR = ends_with(".tar")

_DIGITS = 16
_BITS = 64
_BITS_PER_DIGIT = 4
_HEXADECIMAL = b"0123456789abcdef"

_LEAST_SIDE = 256  # pixels to which a JPEG may be scaled down; the hash looks at 32 x 32


def perceptual_hash(image: bytes | Path) -> str | None:
    """Hashes an image as it is seen: upright, transparency on white.

    Args:
        image: Its path or its bytes.

    Returns:
        16 hexadecimal digits; None if this is no readable image.
    """
    import imagehash

    try:
        data = image if isinstance(image, bytes) else image.read_bytes()
        return str(imagehash.phash(upright(data, needed=_LEAST_SIDE)))
    except (BadImage, OSError):
        return None


def hashes_of(source: str) -> NDArray[np.uint64]:
    """Hashes the evaluation images.

    Args:
        source: A folder of images or shards, a shard, or a parquet file with a column of hashes.

    Returns:
        The different hashes, in ascending order.

    Raises:
        UserError: The source has no images, or its hashes are none.
    """
    path = Path(source).expanduser()
    key = f"rules.near_duplicates.of={source}"

    if path.is_file() and path.suffix == ".parquet":
        texts = _column(path, key)
    elif path.is_file() and _TAR(path):
        texts = _of_shard(path)
    elif path.is_dir():
        texts = _of_folder(path)
    else:
        raise UserError(
            f"{key}: no such folder of images or shards, or parquet file with {HASH_COLUMN}"
        )

    # Sorted: the plan holds a hash of them, which the order of files must not change.
    numbers = sorted({int(text, 16) for text in texts if text})
    if not numbers:
        raise UserError(f"{key}: no images there; expected images, or shards with them")
    without = sum(text is None for text in texts)
    if without:
        print(f"{source}: {without:,} of {len(texts):,} images have no hash")
    return np.array(numbers, dtype=np.uint64)


def _column(path: Path, key: str) -> list[str | None]:
    try:
        table = parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{key}: not a readable parquet file ({first_line(error)})") from None

    if HASH_COLUMN not in table.column_names:
        raise UserError(f"{key}: no column {HASH_COLUMN}; it has {shown_names(table.column_names)}")

    texts: list[str | None] = table[HASH_COLUMN].cast(pa.string()).to_pylist()
    # A null is allowed: an image without a hash.
    for text in texts:
        if text is not None and not _is_hash(text):
            raise UserError(
                f"{key}: {shown(text)} in {HASH_COLUMN} is no hash; expected {_DIGITS} hexadecimal "
                f"digits"
            )
    return texts


def _is_hash(text: str) -> bool:
    return len(text) == _DIGITS and set(text.lower()) <= set(_HEXADECIMAL.decode())


def _of_folder(folder: Path) -> list[str | None]:
    found = find_files(folder, lambda path: _TAR(path) or is_image(path), deep=True)
    found.left_out.say(folder)
    shards = [path for path in found.files if _TAR(path)]
    images = [path for path in found.files if not _TAR(path)]

    with processes(None, "hashing images") as pool:
        # Many images a task: one takes only 3 ms.
        bar = tqdm(images, desc="hashing images", delay=1)
        hashes = list(pool.map(perceptual_hash, bar, chunksize=64))

        shards_bar = tqdm(shards, desc="hashing shards", delay=1)
        hashes += itertools.chain.from_iterable(pool.map(_of_shard, shards_bar))
    return hashes


def _of_shard(path: Path) -> list[str | None]:
    return list(hashes_by_key(path).values())


def hashes_by_key(path: Path) -> dict[str, str | None]:
    """Hashes the images of a tar.

    Args:
        path: A tar of WebDataset's format.

    Returns:
        The hash of each image by its key, in the tar's order; None if it is not readable.
    """
    # The reader wants a caption, of which nothing is read here.
    reader = ShardReader(path, CaptionSource.parse("txt"))
    try:
        # The reader puts the shard's name before each key, while img2dataset's table does not.
        keys = (reader.key(index).partition("/")[2] for index in range(len(reader)))
        return dict(zip(keys, map(perceptual_hash, _images(reader)), strict=True))
    finally:
        reader.close()


def _images(reader: ShardReader) -> Iterator[bytes]:
    for index in range(len(reader)):
        try:
            yield reader.image(index)
        except UserError:
            raise  # about the tar, not about an image
        except ValueError:
            yield b""  # a link has no image, hence no hash


@dataclass(frozen=True)
class Probes:
    """Hashes to look for, cut into blocks.

    With one block more than half the distance, a near-duplicate differs from the probe in at most
    one bit of at least one block.

    Attributes:
        hashes: 64 bits each.
        distance: The bits in which a near-duplicate may differ.
    """

    hashes: NDArray[np.uint64]
    distance: int

    @cached_property
    def blocks(self) -> Sequence[tuple[int, int]]:
        """(first digit, number of digits) of each block."""
        count = self.distance // 2 + 1
        edges = [_DIGITS * block // count for block in range(count + 1)]
        return [(start, end - start) for start, end in itertools.pairwise(edges)]

    def table(self, index: int) -> pa.Table:
        """Lists the values of one block that make a row a candidate.

        Args:
            index: Of the block.

        Returns:
            (block, high, low): the block's digits, and the two halves of the hash to compare with.
        """
        start, length = self.blocks[index]
        bits = _BITS_PER_DIGIT * length
        shift = np.uint64(_BITS - _BITS_PER_DIGIT * start - bits)
        values = (self.hashes >> shift) & np.uint64(2**bits - 1)

        # The block itself, and the block with one bit flipped.
        one_bit = [1 << bit for bit in range(bits)] if self.distance else []
        flips = np.array([0, *one_bit], dtype=np.uint64)
        candidates = (values[:, None] ^ flips[None, :]).ravel()
        hashes = np.repeat(self.hashes, len(flips))

        # Two halves, because engines' integers have a sign.
        columns = {
            "block": hexadecimal(candidates, length),
            "high": (hashes >> np.uint64(32)).astype(np.int64),
            "low": (hashes & np.uint64(2**32 - 1)).astype(np.int64),
        }
        return pa.table(columns)


def hexadecimal(numbers: NDArray[np.uint64], digits: int) -> pa.Array:
    """Spells numbers in hexadecimal.

    Args:
        numbers: `[n]`.
        digits: The number of digits to give, counted from the last.

    Returns:
        n texts of `digits` characters.
    """
    shifts = np.arange(_BITS_PER_DIGIT * (digits - 1), -1, -_BITS_PER_DIGIT).astype(np.uint64)
    nibbles = (numbers[:, None] >> shifts) & np.uint64(15)

    # The buffers of an Arrow array are made directly: there may be millions of numbers.
    alphabet = np.frombuffer(_HEXADECIMAL, dtype=np.uint8)
    letters = np.ascontiguousarray(alphabet[nibbles.astype(np.uint8)])
    ends = np.arange(0, digits * len(numbers) + 1, digits, dtype=np.int64)
    texts = pa.LargeStringArray.from_buffers(
        len(numbers), pa.py_buffer(ends), pa.py_buffer(letters)
    )
    return texts.cast(pa.string())


def hash_shards(tables: Sequence[Path], folder: Path) -> None:
    """Hashes the images of img2dataset's shards.

    Each shard gets a parquet file of (row, phash). Files from an earlier attempt stay.

    Args:
        tables: The shards' parquet files, in the order that numbers their rows.
        folder: Is made if it is missing.
    """
    folder.mkdir(exist_ok=True)

    with processes(None, "hashing images") as pool:
        jobs = [
            pool.submit(_hash_shard, table, index, folder / table.name)
            for index, table in enumerate(tables)
            if not (folder / table.name).exists()
        ]
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="hashing images", unit="shard"):
            # Raises what went wrong in the process: nobody else would.
            job.result()


def _hash_shard(table: Path, index: int, to: Path) -> None:
    hashes = hashes_by_key(table.with_suffix(".tar"))
    keys = parquet.read_table(table, columns=["key"])["key"].to_pylist()

    # The table has a row for every URL, also for those without an image.
    rows: list[int] = []
    texts: list[str | None] = []
    for row, key in enumerate(keys):
        if hashes.get(key):
            rows.append(index * ROWS_PER_FILE + row)
            texts.append(hashes[key])

    found = pa.table({"row": pa.array(rows, pa.int64()), "phash": pa.array(texts, pa.string())})
    with whole(to) as aside:
        parquet.write_table(found, aside)
