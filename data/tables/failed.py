"""The rows of img2dataset's tables that failed and are worth one more try."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ibis
from ibis.expr.types import Table
from pyarrow import parquet

from align_train.errors import UserError, shown_names
from align_train.files import whole

from .engines import engine
from .find import Tables, find
from .img2dataset import OWN_COLUMNS, STATS_SUFFIX

if TYPE_CHECKING:
    from ..failed import FailedSettings

# Columns of img2dataset's tables: those that name a pair, and those that are always there.
_KNOWN_BY = ("url", "caption")
_NEEDED = ("url", "status", "error_message")


def write_failed(settings: FailedSettings, to: Path) -> int:
    """Writes the table of failed URLs.

    Args:
        settings: Those of the command.
        to: The table.

    Returns:
        How many they are.

    Raises:
        UserError: The download is not finished, or the tables are not img2dataset's.
    """
    _refuse_unfinished(settings)

    shards = find(settings.shards, key="shards")
    _check_columns(shards)
    columns = [name for name in shards.types if name not in OWN_COLUMNS]

    to.parent.mkdir(parents=True, exist_ok=True)
    spill = to.with_name(f".{to.name}.spill")
    with engine("duckdb", memory_gb=settings.memory_gb, threads=None, temporary=spill) as duckdb:
        # By their names, not by a glob: img2dataset opens a table before the table has rows.
        rows = duckdb.load(*shards.files)
        known_by = [name for name in _KNOWN_BY if name in columns]
        # A URL that failed in two passes has a row in the shards of both.
        failed = _failed(rows, settings.gone, known_by).select(*columns).distinct()

        # The engine writes a folder. It lies in the spill folder, which is removed in any case.
        duckdb.save(failed.order_by(*known_by), spill / "failed")
        with whole(to) as aside:
            (spill / "failed" / "part-0.parquet").replace(aside)
    urls: int = parquet.read_metadata(to).num_rows
    return urls


def _check_columns(shards: Tables) -> None:
    """Refuses tables that are not img2dataset's."""
    shards.refuse_twins(shards.types, "shards")
    missing = [name for name in _NEEDED if name not in shards.types]
    if missing:
        raise UserError(
            f"shards: {shards.files[0]} has no column {missing[0]}; expected the folder that "
            f"img2dataset filled, it has {shown_names(shards.types)}"
        )


def _refuse_unfinished(settings: FailedSettings) -> None:
    folder = Path(settings.shards).expanduser()

    # img2dataset begins each file of the source with a new shard.
    wanted = sum(-(-rows // settings.pairs_per_shard) for rows in find(settings.source).rows)
    names = (f"{index:05d}" for index in range(wanted))
    missing = [name for name in names if not (folder / f"{name}{STATS_SUFFIX}").is_file()]
    if missing:
        raise UserError(
            f"shards={settings.shards}: {len(missing)} of the {wanted} shards of "
            f"source={settings.source} are not finished, first {missing[0]}; download on before "
            f"failed URLs are tried again"
        )


def _failed(rows: Table, gone: Sequence[str], known_by: Sequence[str]) -> Table:
    """The rows that failed.

    Args:
        rows: Of all shards.
        gone: Errors that another attempt cannot mend.
        known_by: The columns that say which pair a row is: a download may have no captions.
    """
    successes = rows.filter(rows.status == "success").select(*known_by)
    failed = rows.filter(rows.status == "failed_to_download")
    for error in gone:
        # Tables without an error have no type for this column.
        message = failed.error_message.cast("string").fill_null("")
        failed = failed.filter(~message.contains(error))

    # A caption may be null, which equals nothing, not even another null.
    same = [ibis._[name].identical_to(successes[name]) for name in known_by]
    return failed.anti_join(successes, same)
