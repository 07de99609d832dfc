"""What img2dataset leaves: `00000.tar` (the pairs that it got), `00000.parquet` (a row for every URL) and `00000_stats.json`.

The statistics are written last: a shard that has them is whole; one without is what a killed download left. Nothing here opens
a tar, and nothing of the img2dataset package is needed (it wants old libraries; it runs in an environment of its own).
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

STATS_SUFFIX = "_stats.json"


# The columns of its tables that are its own; the others are those of the table that was downloaded.
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


def stats_of(tar: Path) -> Path:
    return tar.with_name(tar.stem + STATS_SUFFIX)


def unfinished(tars: Iterable[Path]) -> list[Path]:
    """The tars without statistics."""
    return [tar for tar in tars if not stats_of(tar).is_file()]


def finished_shards(folders: Sequence[str], stage: ShardCache) -> list[Shard] | None:
    """A row of the manifest for each finished shard with a pair in it; None where these are no folders of img2dataset's.

    A folder may be a URL. What is unfinished is left out and told.
    """
    tars, stats = list[str](), set[str]()
    for folder in folders:
        place = folder.rstrip("/")
        if is_url(folder):
            tars += stage.glob(f"{place}/*.tar")
            stats |= set(stage.glob(f"{place}/*{STATS_SUFFIX}"))
        else:
            path = Path(place).expanduser()
            tars += map(str, path.glob("*.tar"))
            stats |= set(map(str, path.glob(f"*{STATS_SUFFIX}")))
    if not stats:
        return None
    whole = sorted(tar for tar in tars if _beside(tar, STATS_SUFFIX) in stats)
    if len(whole) < len(tars):
        first = min(set(tars) - set(whole))
        print(
            f"{len(tars) - len(whole)} unfinished shards without {STATS_SUFFIX} are left out, first {first}"
        )
    with ThreadPoolExecutor(max_workers=8) as pool:
        counted = pool.map(partial(_counted, stage=stage), whole)
        shards = list(
            tqdm(counted, total=len(whole), desc="reading statistics", delay=1, leave=False)
        )
    return [shard for shard in shards if shard.pairs]


def _beside(tar: str, suffix: str) -> str:
    return tar.removesuffix(".tar") + suffix


def _counted(tar: str, *, stage: ShardCache) -> Shard:
    """A shard's row. Where it has a table beside it here, that counts: a pair that could not be written stands only in the
    statistics."""
    if is_url(tar):
        return Shard(tar, _successes(_beside(tar, STATS_SUFFIX), stage), stage.size(tar) or 0)
    table = Path(tar).with_suffix(".parquet")
    pairs = (
        _rows_with_pictures(table)
        if table.is_file()
        else _successes(_beside(tar, STATS_SUFFIX), stage)
    )
    return Shard(tar, pairs, Path(tar).stat().st_size)


def _successes(place: str, stage: ShardCache) -> int:
    try:
        pairs = json.loads(stage.read(place))["successes"]
    except (ValueError, KeyError, TypeError):
        pairs = None
    if not isinstance(pairs, int) or pairs < 0:
        raise UserError(
            f"{place}: no statistics of img2dataset's; remove the file and download the shard again"
        )
    return pairs


def _rows_with_pictures(table: Path) -> int:
    try:
        status = parquet.read_table(table, columns=["status"])["status"]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(
            f"{table}: no table of img2dataset's ({str(error).splitlines()[0]}); remove its {STATS_SUFFIX}, download it again"
        ) from None
    return int(pc.sum(pc.equal(status, "success")).as_py() or 0)
