"""The kept rows, written file by file, and the selection of img2dataset's shards.

The kept rows keep their files' names, order, columns and types, whatever the engine was. Of
img2dataset's shards a manifest with a selection is written too: which pairs of each tar are kept,
by sorted key. Each file is whole or absent, so that a filter that runs again goes on with the first
file that is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet
from tqdm import tqdm

from align_train.files import whole
from align_train.shards.manifest import MANIFEST_NAME, Manifest
from align_train.shards.row import Shard

from ..tables.batches import batches
from ..tables.tars import Tars
from .verdicts import Verdicts


def write_kept(verdicts: Verdicts, folder: Path) -> dict[str, int]:
    """Writes the kept rows of each file under its name.

    Args:
        verdicts: Decide which rows are kept.
        folder: Is made if it is missing. Files that are there stay as they are.

    Returns:
        The rows of each file that was written. A file of which no row is kept is left out.
    """
    folder.mkdir(exist_ok=True)
    written: dict[str, int] = {}

    total = sum(verdicts.tables.rows)
    with tqdm(total=total, desc="writing kept rows", unit="row", unit_scale=True) as bar:
        for file, keep in verdicts.by_file():
            # A file of an earlier attempt is whole, and the same plan would write it alike.
            path = folder / file.name
            if path.exists():
                bar.update(len(keep))
            else:
                _write_rows(file, keep, path, only_success=verdicts.tables.shards, bar=bar)

            rows = parquet.read_metadata(path).num_rows
            if rows:
                written[file.name] = rows
            else:
                path.unlink()
    return written


def _write_rows(
    file: Path, keep: NDArray[np.bool_], to: Path, *, only_success: bool, bar: tqdm[None]
) -> None:
    """Writes the rows of one file that are kept.

    Args:
        file: The source's file.
        keep: `[rows of the file]`.
        to: The path to write to.
        only_success: Leave out the rows of img2dataset's tables that have no image.
        bar: Counts the rows that were read.
    """
    # The source's own schema, with its metadata.
    schema = parquet.read_schema(file)

    with whole(to) as aside, parquet.ParquetWriter(aside, schema, compression="zstd") as writer:
        start = 0
        for batch in batches(file):
            mask = keep[start : start + len(batch)]
            if only_success:
                # No verdict is on these: the engine has read only rows with an image.
                mask = mask & _has_image(batch.column("status"))
            writer.write_batch(batch.filter(pa.array(mask)))
            start += len(batch)
            bar.update(len(batch))


def write_selection(verdicts: Verdicts, folder: Path) -> Manifest:
    """Writes `manifest.jsonl` and its selection: the kept pairs of each shard's tar.

    The tars stay as they are. Shards without a pair are left out.

    Args:
        verdicts: Decide which pairs are kept.
        folder: The folder of the manifest.
    """
    shards: list[Shard] = []
    kept: list[NDArray[np.bool_]] = []

    files = verdicts.by_file()
    total = len(verdicts.tables.files)
    for file, keep in tqdm(files, total=total, desc="selecting", unit="shard"):
        # Rows without an image have no pair in the tar.
        table = pa.Table.from_batches(list(batches(file, ["key", "status"])))
        has_image = _has_image(table["status"])
        if not has_image.any():
            continue

        # A tar's pairs are counted in the order of their keys' bytes; the table has another order.
        keys = np.array(table["key"].to_pylist(), dtype=object)[has_image]
        order = np.argsort(np.char.encode(keys.astype(str), "utf-8"), kind="stable")
        kept.append(keep[has_image][order])

        tar = file.with_suffix(".tar")
        shards.append(Shard(str(tar), int(has_image.sum()), tar.stat().st_size))

    manifest = Manifest(tuple(shards), str(folder))
    manifest.write(folder / MANIFEST_NAME, kept=kept)
    return manifest


def write_narrowed(verdicts: Verdicts, tars: Tars, folder: Path) -> None:
    """Writes `manifest.jsonl` and its selection for shards whose tables were built from their tars.

    A selection that the source had is narrowed.

    Args:
        verdicts: Decide which pairs are kept.
        tars: The shards.
        folder: The folder of the manifest.
    """
    tars.manifest.write(
        folder / MANIFEST_NAME, kept=_by_sorted_key(verdicts, tars), cache=tars.cache
    )


def _by_sorted_key(verdicts: Verdicts, tars: Tars) -> Iterator[NDArray[np.bool_]]:
    """Which pairs of each shard are kept, in the order of their keys' bytes."""
    judged = zip(tars.manifest.shards, verdicts.by_file(), strict=True)
    total = len(tars.manifest.shards)
    for shard, (_, keep) in tqdm(judged, total=total, desc="selecting", unit="shard"):
        yield keep[np.argsort(tars.keys(shard), kind="stable")]


def _has_image(status: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
    """Marks the rows whose pair img2dataset has written, bool `[rows]`."""
    found: NDArray[np.bool_] = status.to_numpy(zero_copy_only=False) == "success"
    return found
