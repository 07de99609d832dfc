"""`python -m data.failed shards=… source=… to=…`: the URLs that img2dataset did not get, as a table for one more pass.

A URL that was got in any shard is not among them, so after a second pass (into the same folder, as further shards) the command
finds what is still missing; nor are those whose error will not mend (`gone`) and pictures that came but could not be read. It
refuses while shards of the first pass are missing: further shards would take their numbers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ibis
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from pyarrow import parquet

from align_train.config.compose import command
from align_train.config.schema import MISSING
from align_train.errors import UserError
from data.tables.engines import engine
from data.tables.find import find
from data.tables.img2dataset import OWN_COLUMNS, STATS_SUFFIX


@dataclass
class FailedConfig:
    """`conf/commands/failed.yaml` says what each key is for."""

    shards: str = MISSING
    source: Any = MISSING
    to: str = MISSING
    pairs_per_shard: int = 10000
    gone: list[str] = field(default_factory=list)
    memory_gb: float = 4.0


ConfigStore.instance().store(name="failed_schema", node=FailedConfig)


def run(config: DictConfig) -> None:
    folder, to = Path(config.shards).expanduser(), Path(config.to).expanduser()
    if to.suffix != ".parquet":
        raise UserError(f"to={config.to}: expected the name of a parquet file")
    source = find(config.source)
    wanted = sum(-(-rows // config.pairs_per_shard) for rows in source.rows)
    missing = [
        number for number in range(wanted) if not (folder / f"{number:05d}{STATS_SUFFIX}").is_file()
    ]
    if missing:
        raise UserError(
            f"shards={config.shards}: {len(missing)} of the {wanted} shards of source={config.source} are not finished, first "
            f"{missing[0]:05d}; download on before failed URLs are tried again"
        )
    tables = find(config.shards, key="shards")
    kept = [name for name in tables.types if name not in OWN_COLUMNS]
    to.parent.mkdir(parents=True, exist_ok=True)
    aside = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        with engine(
            "duckdb",
            memory_gb=config.memory_gb,
            threads=None,
            temporary=to.with_name(f".{to.name}.spill"),
        ) as duckdb:
            rows = duckdb.load(
                *tables.files
            )  # and no other: img2dataset opens a table under its name before it has rows
            there = rows.filter(rows.status == "success").select("url", "caption")
            failed = rows.filter(rows.status == "failed_to_download")
            for error in config.gone:
                failed = failed.filter(~failed.error_message.fill_null("").contains(error))
            left = failed.anti_join(
                there, [ibis._.url == there.url, ibis._.caption.identical_to(there.caption)]
            )
            duckdb.save(left.select(*kept).distinct().order_by("url", "caption"), aside)
        (aside / "part-0.parquet").replace(to)
    finally:
        (aside / "part-0.parquet").unlink(missing_ok=True)
        if aside.is_dir():
            aside.rmdir()
    print(f"{to}: {parquet.read_metadata(to).num_rows:,} URLs to try once more")


if __name__ == "__main__":
    command(run, config_name="failed")
