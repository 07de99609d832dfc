"""The files that img2dataset writes: `00000.tar`, `00000.parquet` and `00000_stats.json`.

The tar holds the pairs that were downloaded, the table a row for every URL. The statistics are
written last: a shard that has them is whole, and one without them was left by a killed download.
Nothing here opens a tar. Nothing needs the package img2dataset, which wants old libraries and runs
in an environment of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet
from tqdm import tqdm

from align_train.cluster.pools import threads
from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.find import ends_with, find_files
from align_train.shards.foreign import is_foreign
from align_train.shards.left_out import counted
from align_train.shards.remote import is_url
from align_train.shards.row import Shard

from .batches import first_line

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


def finished_shards(
    folders: Sequence[str], cache: ShardCache, caption: CaptionSource
) -> list[Shard] | None:
    """Counts the pairs of img2dataset's shards; unfinished ones are left out, with a line.

    Pairs without a text count, as in any shard; how many there are is said, as far as tables lie
    beside the tars.

    Args:
        folders: Paths or URLs of folders.
        cache: Reads what lies at URLs.
        caption: Where the texts lie: `txt` is the column `caption`, `json:FIELD` the column FIELD;
            of several places a pair must have a text in one.

    Returns:
        A row of the manifest for each finished shard that has a pair; None if img2dataset did not
        write these folders.

    Raises:
        UserError: Statistics or a table cannot be read, or no pair has a text.
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

    with threads(_READERS) as pool:
        columns = [place.field or "caption" for place in caption.places]
        results = pool.map(partial(_counted, cache=cache, columns=columns), finished)
        bar = tqdm(results, total=len(finished), desc="reading statistics", delay=1, leave=False)
        counts = [(shard, bare) for shard, bare in bar if shard.pairs]

    _say_without_text(counts, columns, caption)
    return [shard for shard, _ in counts]


def _say_without_text(
    counts: Sequence[tuple[Shard, int]], columns: Sequence[str], caption: CaptionSource
) -> None:
    """Says how many pairs have no text; UserError if all have none."""
    pairs = sum(shard.pairs for shard, _ in counts)
    bare = sum(count for _, count in counts)
    if bare and bare == pairs:
        raise UserError(
            f"{counts[0][0].url}: none of the {counted(pairs, 'pair')} has a text; img2dataset's "
            f"tables have none in a column {' or '.join(columns)}: download with --caption_col, or "
            f"set caption (now {caption})"
        )
    if bare:
        first = next(shard.url for shard, count in counts if count)
        have = "has" if bare == 1 else "have"
        print(f"{bare:,} of {counted(pairs, 'pair')} {have} no text, first in {first}")


def _names(folder: str, pattern: str, cache: ShardCache) -> list[str]:
    plain = folder.rstrip("/")
    if is_url(folder):
        names = cache.glob(f"{plain}/{pattern}")
        return [name for name in names if not is_foreign(PurePosixPath(name))]
    found = find_files(plain, ends_with(pattern.removeprefix("*")), deep=False)
    found.left_out.say(folder)
    return list(map(str, found.files))


def _stats_beside(tar: str) -> str:
    return tar.removesuffix(".tar") + STATS_SUFFIX


def _counted(tar: str, *, cache: ShardCache, columns: Sequence[str]) -> tuple[Shard, int]:
    """Makes a shard's row, and counts its pairs without a text.

    A local table counts before the statistics: they include pairs that could not be written.
    """
    if is_url(tar):
        return Shard(tar, _successes(_stats_beside(tar), cache), cache.size(tar) or 0), 0

    table = Path(tar).with_suffix(".parquet")
    size = Path(tar).stat().st_size
    if not table.is_file():
        return Shard(tar, _successes(_stats_beside(tar), cache), size), 0
    pairs, bare = _rows_with_images(table, columns)
    return Shard(tar, pairs, size), bare


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


def _rows_with_images(table: Path, columns: Sequence[str]) -> tuple[int, int]:
    """Counts the rows that have an image, and how many of them have a text in no column."""
    try:
        # Unlike `read_table`, this takes a column that is missing for none.
        rows = parquet.ParquetFile(table).read(columns=["status", *columns])
        success = pc.fill_null(pc.equal(rows["status"], "success"), False)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(
            f"{table}: no table of img2dataset's ({first_line(error)}); remove its {STATS_SUFFIX}, "
            f"download it again"
        ) from None
    with_image = rows.filter(success)

    bare = pa.array([True] * len(with_image), pa.bool_())
    for column in columns:
        if column in with_image.column_names:
            bare = pc.and_(bare, _is_bare(with_image[column]))
    # Arrow's sum of no rows is null.
    return len(with_image), int(pc.sum(bare).as_py() or 0)


def _is_bare(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Marks the rows of a column that have no text."""
    if pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type):
        return pc.equal(pc.utf8_trim_whitespace(pc.fill_null(texts, "")), "")
    return pc.is_null(texts)
