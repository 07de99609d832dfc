"""`python -m data.failed shards=… source=… to=…`: the URLs that failed, for one more download.

The table leaves out three kinds of URLs: those that any shard has, those whose error will not mend
(the setting `gone`), and images that came but could not be read. A second pass goes into the same
folder as further shards, so that the command then finds those that are still missing.

The command refuses a folder in which shards of the first pass are missing: further shards would
take their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
from ibis.expr.types import Table
from pyarrow import parquet

from align_train.config.compose import command
from align_train.errors import UserError
from align_train.files import whole
from data.tables.engines import engine
from data.tables.find import find
from data.tables.img2dataset import OWN_COLUMNS, STATS_SUFFIX


@dataclass
class FailedSettings:
    """`conf/commands/failed.yaml` explains each key and has the defaults."""

    shards: str
    source: Any  # a path or a list of paths; Hydra may take one for a number
    to: str
    pairs_per_shard: int
    gone: list[str]
    memory_gb: float


def run(settings: FailedSettings) -> None:
    """Writes the table of failed URLs."""
    to = Path(settings.to).expanduser()
    if to.suffix != ".parquet":
        raise UserError(f"to={settings.to}: expected the name of a parquet file")
    _refuse_unfinished(settings)

    shards = find(settings.shards, key="shards")
    columns = [name for name in shards.types if name not in OWN_COLUMNS]

    to.parent.mkdir(parents=True, exist_ok=True)
    spill = to.with_name(f".{to.name}.spill")
    with engine("duckdb", memory_gb=settings.memory_gb, threads=None, temporary=spill) as duckdb:
        # By their names, not by a glob: img2dataset opens a table before the table has rows.
        rows = duckdb.load(*shards.files)
        failed = _failed(rows, settings.gone).select(*columns).distinct()

        # The engine writes a folder. It lies in the spill folder, which is removed in any case.
        duckdb.save(failed.order_by("url", "caption"), spill / "failed")
        with whole(to) as aside:
            (spill / "failed" / "part-0.parquet").replace(aside)
    print(f"{to}: {parquet.read_metadata(to).num_rows:,} URLs to try once more")


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


def _failed(rows: Table, gone: Sequence[str]) -> Table:
    successes = rows.filter(rows.status == "success").select("url", "caption")
    failed = rows.filter(rows.status == "failed_to_download")
    for error in gone:
        failed = failed.filter(~failed.error_message.fill_null("").contains(error))

    # A caption may be null, which equals nothing, not even another null.
    same_caption = ibis._.caption.identical_to(successes.caption)
    return failed.anti_join(successes, [ibis._.url == successes.url, same_caption])


if __name__ == "__main__":
    command(run, config_name="failed", schema=FailedSettings)
