"""The files that img2dataset writes: `00000.tar`, `00000.parquet` and `00000_stats.json`.

The tar holds the pairs that were downloaded, the table a row for every URL. The statistics are
written last: a shard that has them is whole, and one without them was left by a killed download.
Nothing here opens a tar. Nothing needs the package img2dataset, which wants old libraries and runs
in an environment of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet
from tqdm import tqdm

from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.manifest import Shard
from align_train.shards.remote import is_url
from data.tables.batches import first_line

STATS_SUFFIX = "_stats.json"

# The columns that img2dataset adds. The others come from the table that was downloaded.
OWN_COLUMNS = (
    "key",
    "status",
    "error_message",
    "width",
    "height",
    "original_width",
    "original_height",
    "exif",
    "sha256",
    "md5",
)

_READERS = 8  # threads; statistics at a URL are small, so that latency is their price


def stats_of(tar: Path) -> Path:
    """The path of a tar's statistics."""
    return tar.with_name(tar.stem + STATS_SUFFIX)


def unfinished(tars: Iterable[Path]) -> list[Path]:
    """The tars without statistics."""
    return [tar for tar in tars if not stats_of(tar).is_file()]


def finished_shards(folders: Sequence[str], cache: ShardCache) -> list[Shard] | None:
    """Counts the pairs of img2dataset's shards; unfinished ones are left out, with a line.

    Args:
        folders: Paths or URLs of folders.
        cache: Reads what lies at URLs.

    Returns:
        A row of the manifest for each finished shard that has a pair; None if img2dataset did not
        write these folders.

    Raises:
        UserError: Statistics or a table cannot be read.
    """
    # Listings say which statistics exist. To ask for each would cost a request a shard at a URL.
    tars: list[str] = []
    stats: set[str] = set()
    for folder in folders:
        tars += _names(folder, "*.tar", cache)
        stats |= set(_names(folder, f"*{STATS_SUFFIX}", cache))
    if not stats:
        return None

    finished = sorted(tar for tar in tars if _stats_beside(tar) in stats)
    if len(finished) < len(tars):
        first = min(set(tars) - set(finished))
        print(
            f"{len(tars) - len(finished)} unfinished shards without {STATS_SUFFIX} are left out, "
            f"first {first}"
        )

    with ThreadPoolExecutor(max_workers=_READERS) as pool:
        counted = pool.map(partial(_counted, cache=cache), finished)
        bar = tqdm(counted, total=len(finished), desc="reading statistics", delay=1, leave=False)
        return [shard for shard in bar if shard.pairs]


def _names(folder: str, pattern: str, cache: ShardCache) -> list[str]:
    plain = folder.rstrip("/")
    if is_url(folder):
        return list(cache.glob(f"{plain}/{pattern}"))
    return [str(path) for path in Path(plain).expanduser().glob(pattern)]


def _stats_beside(tar: str) -> str:
    return tar.removesuffix(".tar") + STATS_SUFFIX


def _counted(tar: str, *, cache: ShardCache) -> Shard:
    """Makes a shard's row.

    A local table counts before the statistics: they include pairs that could not be written.
    """
    if is_url(tar):
        return Shard(tar, _successes(_stats_beside(tar), cache), cache.size(tar) or 0)

    table = Path(tar).with_suffix(".parquet")
    has_table = table.is_file()
    pairs = _rows_with_images(table) if has_table else _successes(_stats_beside(tar), cache)
    return Shard(tar, pairs, Path(tar).stat().st_size)


def _successes(path: str, cache: ShardCache) -> int:
    try:
        pairs = json.loads(cache.read(path))["successes"]
    except (ValueError, KeyError, TypeError):
        pairs = None

    if not isinstance(pairs, int) or pairs < 0:
        raise UserError(
            f"{path}: no statistics of img2dataset's; remove the file and download the shard again"
        )
    return pairs


def _rows_with_images(table: Path) -> int:
    try:
        status = parquet.read_table(table, columns=["status"])["status"]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(
            f"{table}: no table of img2dataset's ({first_line(error)}); remove its {STATS_SUFFIX}, "
            f"download it again"
        ) from None
    # The sum of no rows is null.
    return int(pc.sum(pc.equal(status, "success")).as_py() or 0)
