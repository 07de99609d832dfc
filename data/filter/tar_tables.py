"""Builds a table of each shard from its tar: the columns that the rules read, a row for each pair.

The files are parquet, each whole or absent: those of an earlier attempt stay. A cell that is not of
its column's kind is null: a number that JSON spells as a text is none.

Price: texts and JSON alone are 0.1 ms a pair. Sizes and hashes are read from the images, which
reads the whole tar; hashes decode them, 300 a second and core.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
from PIL import Image
from pyarrow import parquet
from tqdm import tqdm

from align_train.cluster.pools import processes
from align_train.errors import UserError
from align_train.files import whole
from align_train.shards.caption import is_unicode
from align_train.shards.image_kind import KINDS
from align_train.shards.row import Shard
from align_train.shards.shard import ShardReader
from align_train.stream.bad_image import BadImage, guarded
from align_train.stream.plain_jpeg import sides_of_plain_jpeg

from ..tables.tars import HEIGHT, KEY, OF_IMAGE, OF_PAIR, PAIR, PHASH, TEXT, WIDTH, Tars, json_of
from .hashes import perceptual_hash

Cell = str | int | float | None


@dataclass(frozen=True)
class _Builder:
    """Builds the table of a shard. kinds: of each column, `string` or `float64`."""

    tars: Tars
    kinds: Mapping[str, str]

    def build(self, shard: Shard, to: Path) -> None:
        columns: dict[str, list[Cell]] = {name: [] for name in self.kinds}
        reader = self.tars.open(shard)
        try:
            for pair in range(len(reader)):
                for name, cell in self._row(reader, pair).items():
                    columns[name].append(cell)
        finally:
            reader.close()

        types = {"string": pa.string(), "float64": pa.float64()}
        schema = pa.schema([(name, types[kind]) for name, kind in self.kinds.items()])
        with whole(to) as aside:
            parquet.write_table(pa.table(columns, schema=schema), aside, compression="zstd")

    def _row(self, reader: ShardReader, pair: int) -> dict[str, Cell]:
        named = reader.key(pair)
        cells: dict[str, Cell] = {PAIR: named, KEY: named.partition("/")[2]}
        if TEXT in self.kinds:
            cells[TEXT] = _first_text(reader, pair)

        # A field of the JSON counts before what would be read from the image.
        fields = [name for name in self.kinds if name in self.tars.fields and name not in OF_PAIR]
        record = json_of(reader, pair) if fields else {}
        for name in fields:
            of_kind = _number if self.kinds[name] == "float64" else _text
            cells[name] = of_kind(record.get(name))

        wanted = [name for name in OF_IMAGE if name in self.kinds and name not in fields]
        if wanted:
            cells |= _of_image(reader, pair, wanted)
        return {name: cells[name] for name in self.kinds}


def build_tables(
    tars: Tars, kinds: Mapping[str, str], files: tuple[Path, ...], threads: int | None
) -> None:
    """Builds the tables that are missing.

    Args:
        tars: The shards.
        kinds: The columns, and the kind of each: `string` or `float64`.
        files: The table of each shard, in the order of the shards.
        threads: Processes at most; None: one a core; 1: none but this.

    Raises:
        UserError: A shard is broken.
    """
    # Only what a process needs: a manifest may have 75,000 shards.
    builder = _Builder(tars.without_shards(), dict(kinds))
    files[0].parent.mkdir(exist_ok=True)
    missing = [
        (shard, file)
        for shard, file in zip(tars.manifest.shards, files, strict=True)
        if not file.exists()
    ]
    bar = partial(tqdm, total=len(missing), desc="reading shards", unit="shard", delay=1)

    # Processes take seconds to start.
    if threads == 1 or len(missing) < 2:
        for shard, file in bar(missing):
            builder.build(shard, file)
        return
    with processes(threads, "reading shards") as pool:
        jobs = [pool.submit(builder.build, shard, file) for shard, file in missing]
        for job in bar(as_completed(jobs)):
            job.result()


def _first_text(reader: ShardReader, pair: int) -> str | None:
    try:
        return reader.all_texts(pair)[0]
    except UserError:
        raise  # about the tar, not about a text
    except ValueError:
        return None


def _number(value: object) -> float | None:
    """A number of JSON; true is 1."""
    try:
        # An integer of JSON may have any number of digits.
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return None


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    return value if isinstance(value, str) and is_unicode(value) else None


def _of_image(reader: ShardReader, pair: int, wanted: list[str]) -> dict[str, Cell]:
    try:
        data = reader.image(pair)
    except UserError:
        raise  # about the tar, not about an image
    except ValueError:
        data = b""  # a link has no image

    cells: dict[str, Cell] = {}
    if WIDTH in wanted or HEIGHT in wanted:
        cells[HEIGHT], cells[WIDTH] = _sides(data) or (None, None)
    if PHASH in wanted:
        cells[PHASH] = perceptual_hash(data)
    return {name: cells[name] for name in wanted}


def _sides(data: bytes) -> tuple[int, int] | None:
    """Height and width by the header, as the file lies there; None if it is no image."""
    sides = sides_of_plain_jpeg(data)
    if sides is not None:
        return sides
    try:
        with guarded():
            # Reads the header; pixels would be decoded when they are asked for.
            image = Image.open(io.BytesIO(data), formats=KINDS)
            return image.height, image.width
    except BadImage:
        return None
