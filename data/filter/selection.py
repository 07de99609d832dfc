"""The rows that passed, written file by file as they came: same names, order, columns and types, whatever the engine was.

For img2dataset's shards also as a selection: which pairs of each tar are kept, by sorted key, beside a manifest. Verdicts are
read in the order of rows, so one file's are held at a time. What stands under its name is whole: a filter that is run again
goes on with the first file that is missing.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet
from tqdm import tqdm

from align_train.shards.manifest import MANIFEST_NAME, Manifest, Shard
from data.filter.rules import NAMES
from data.tables.engine import ROWS_PER_FILE
from data.tables.find import Tables, batches

Masks = NDArray[np.int64]


class Verdicts:
    """The mask of rules that each failing row fails. folder: what the engine left, parquet files in the order of rows."""

    def __init__(self, folder: Path, tables: Tables) -> None:
        self.files = sorted(folder.glob("*.parquet"))
        self.tables = tables

    def _in_order(self) -> Iterator[tuple[Masks, Masks]]:
        for file in self.files:
            for batch in batches(file, ["row", "mask"]):
                if len(batch):
                    yield batch.column("row").to_numpy(), batch.column("mask").to_numpy()

    def by_file(self) -> Iterator[tuple[Path, int, Masks, Masks]]:
        """(file, its rows, the failing rows' places in it, their masks), for each file of the tables."""
        coming = self._in_order()
        rows, masks = np.empty(0, np.int64), np.empty(0, np.int64)
        over = False
        for number, (file, count) in enumerate(
            zip(self.tables.files, self.tables.rows, strict=True)
        ):
            parts = [(rows, masks)]
            while not over and (not len(rows) or rows[-1] < (number + 1) * ROWS_PER_FILE):
                rows, masks = next(coming, (rows[:0], masks[:0]))
                over = not len(rows)
                parts.append((rows, masks))
            rows, masks = (np.concatenate(part) for part in zip(*parts, strict=True))
            here = int(np.searchsorted(rows, (number + 1) * ROWS_PER_FILE))
            yield file, count, rows[:here] - number * ROWS_PER_FILE, masks[:here]
            rows, masks = rows[here:], masks[here:]

    def counts(self) -> Counter[int]:
        """How many rows fail with which mask."""
        counts: Counter[int] = Counter()
        for _, masks in self._in_order():
            counts.update(
                dict(
                    zip(
                        *(part.tolist() for part in np.unique(masks, return_counts=True)),
                        strict=True,
                    )
                )
            )
        return counts

    def examples(
        self, names: Sequence[str], number: int, columns: Sequence[str]
    ) -> dict[str, list[dict[str, Any]]]:
        """The first rows that fail each rule."""
        wanted: dict[str, list[int]] = {name: [] for name in names}
        for rows, masks in self._in_order():
            for name, found in wanted.items():
                if len(found) < number:
                    failing = rows[masks & (1 << NAMES.index(name)) > 0]
                    found += failing[: number - len(found)].tolist()
            if all(len(found) == number for found in wanted.values()):
                break
        places = sorted(set(itertools.chain(*wanted.values())))
        records = dict(zip(places, self._rows(places, columns), strict=True))
        return {name: [records[place] for place in found] for name, found in wanted.items()}

    def _rows(self, places: Sequence[int], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        for number, group in itertools.groupby(places, lambda place: place // ROWS_PER_FILE):
            with parquet.ParquetFile(self.tables.files[number]) as file:
                starts = np.cumsum(
                    [
                        0,
                        *(
                            file.metadata.row_group(at).num_rows
                            for at in range(file.num_row_groups)
                        ),
                    ]
                )
                in_file = np.array([place % ROWS_PER_FILE for place in group])
                groups = np.searchsorted(starts, in_file, side="right") - 1
                for at in np.unique(groups):
                    rows = in_file[groups == at] - starts[at]
                    yield from (
                        file.read_row_group(int(at), columns=list(columns)).take(rows).to_pylist()
                    )


def write_kept(verdicts: Verdicts, folder: Path) -> dict[str, int]:
    """Writes each file's kept rows under its name; returns how many they are. Files of which no row is kept are left out."""
    folder.mkdir(exist_ok=True)
    written: dict[str, int] = {}
    with tqdm(
        total=sum(verdicts.tables.rows), desc="writing kept rows", unit="row", unit_scale=True
    ) as bar:
        for file, count, failing, _ in verdicts.by_file():
            place = folder / file.name
            keep = np.ones(count, dtype=bool)
            keep[failing] = False
            if not place.exists():
                _write(file, keep, place, only_success=verdicts.tables.shards, bar=bar)
            else:
                bar.update(count)
            rows = parquet.read_metadata(place).num_rows
            if rows:
                written[file.name] = rows
            else:
                place.unlink()
    return written


def _write(
    file: Path, keep: NDArray[np.bool_], place: Path, *, only_success: bool, bar: tqdm[None]
) -> None:
    aside = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        with parquet.ParquetWriter(aside, parquet.read_schema(file), compression="zstd") as writer:
            start = 0
            for batch in batches(file):
                mask = keep[start : start + len(batch)]
                if only_success:
                    mask = mask & (
                        batch.column("status").to_numpy(zero_copy_only=False) == "success"
                    )
                writer.write_batch(batch.filter(pa.array(mask)))
                start += len(batch)
                bar.update(len(batch))
        os.replace(aside, place)
    finally:
        aside.unlink(missing_ok=True)


def write_selection(verdicts: Verdicts, folder: Path) -> Manifest:
    """Writes manifest.jsonl and its selection: of each shard's tar, the pairs whose rows are kept."""
    shards, kept = [], []
    for file, count, failing, _ in tqdm(
        verdicts.by_file(), total=len(verdicts.tables.files), desc="selecting", unit="shard"
    ):
        keep = np.ones(count, dtype=bool)
        keep[failing] = False
        table = pa.Table.from_batches(list(batches(file, ["key", "status"])))
        there = table["status"].to_numpy(zero_copy_only=False) == "success"
        keys = np.array(table["key"].to_pylist(), dtype=object)[there]
        if not there.any():
            continue
        order = np.argsort(np.char.encode(keys.astype(str), "utf-8"), kind="stable")
        tar = file.with_suffix(".tar")
        shards.append(Shard(str(tar), int(there.sum()), tar.stat().st_size))
        kept.append(keep[there][order])
    manifest = Manifest(tuple(shards), str(folder))
    manifest.write(folder / MANIFEST_NAME, kept=kept)
    return manifest
