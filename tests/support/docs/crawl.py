"""A crawl, as pages about filters take it for granted: tables of URLs, and downloaded shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from align_train.shards.write import write_shard
from benchmarks.shared.crawl_table import write_table

_ROWS = 400  # of COYO's table
_PAIRS = 64  # of each folder of shards


def draw_crawl(folder: Path) -> None:
    """Draws the crawl.

    - `coyo/data`: a table in COYO's columns; `evaluation_images`: images to look for
    - `shards/coyo700m`, `shards/cc12m`: shards of such rows, as img2dataset leaves them
    - `shards/datacomp`, `subset.npy`: shards with uids, and half of the uids in DataComp's form
    - `cc12m.tsv`: a few rows of URL, tab and text

    Args:
        folder: Has `my_images`.
    """
    images = sorted(path for path in (folder / "my_images").iterdir() if path.suffix != ".txt")
    write_table(folder / "coyo" / "data", _ROWS, files=2)
    table = parquet.read_table(folder / "coyo" / "data")
    (folder / "evaluation_images").mkdir()
    for image in images[:4]:
        shutil.copy(image, folder / "evaluation_images")

    for name in ("coyo700m", "cc12m"):
        _write_downloaded(folder / "shards" / name, table.slice(0, _PAIRS), images)
    _write_datacomp(folder, images)
    rows = table.slice(0, 20).to_pylist()
    lines = [f"{row['url']}\t{row['text']}\n" for row in rows]
    (folder / "cc12m.tsv").write_text("".join(lines), encoding="utf-8")


def _write_downloaded(folder: Path, table: pa.Table, images: list[Path]) -> None:
    """Writes a shard with its table and its statistics."""
    folder.mkdir(parents=True)
    keys = [f"{number:09d}" for number in range(table.num_rows)]
    pairs = (
        (key, {image.suffix[1:]: image.read_bytes(), "txt": text.encode()})
        for key, image, text in zip(keys, images, table["text"].to_pylist(), strict=False)
    )
    write_shard(folder / "00000.tar", pairs)

    table = table.append_column("original_width", table["width"])
    table = table.append_column("original_height", table["height"])
    table = table.append_column("key", [keys]).append_column("status", [["success"] * len(keys)])
    parquet.write_table(table, folder / "00000.parquet")
    (folder / "00000_stats.json").write_text("{}")


def _write_datacomp(folder: Path, images: list[Path]) -> None:
    """Writes a shard whose JSON has uids, and a list of every second one."""
    halves = [(2**63 + number, number * 7) for number in range(_PAIRS)]  # of 128 bits
    pairs = (
        (
            f"{number:08d}",
            {
                image.suffix[1:]: image.read_bytes(),
                "txt": image.with_suffix(".txt").read_bytes(),
                "json": json.dumps({"uid": f"{high:016x}{low:016x}"}).encode(),
            },
        )
        for number, (image, (high, low)) in enumerate(zip(images, halves, strict=False))
    )
    (folder / "shards" / "datacomp").mkdir(parents=True)
    write_shard(folder / "shards" / "datacomp" / "00000000.tar", pairs)
    np.save(folder / "subset.npy", np.array(halves[::2], np.dtype("u8,u8")))
