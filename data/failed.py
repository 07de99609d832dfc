"""`python -m data.failed shards=… source=… to=…`: the URLs that failed, for one more download.

The table leaves out three kinds of URLs: those that any shard has, those whose error will not mend
(the setting `gone`), and images that came but could not be read. A second pass goes into the same
folder as further shards, so that the command then finds those that are still missing.

The command refuses a folder in which shards of the first pass are missing: further shards would
take their numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from align_train.cluster.interruption import leave
from align_train.config.command import command
from align_train.config.field_marks import TEXTS, Paths
from align_train.errors import UserError
from align_train.files import check_writable

from .tables.extra import need_prepare


@dataclass
class FailedSettings:
    """`conf/commands/failed.yaml` explains each key and has the defaults."""

    shards: str
    source: Paths = field(metadata=TEXTS)
    to: str
    pairs_per_shard: int
    gone: list[str]
    memory_gb: float


def run(settings: FailedSettings) -> None:
    """Writes the table of failed URLs."""
    need_prepare("failed")
    from .tables.failed import write_failed

    to = Path(settings.to).expanduser()
    if to.suffix != ".parquet":
        raise UserError(f"to={settings.to}: expected the name of a parquet file")
    # Checked now: the table is written last, after all shards were read.
    check_writable(to, "give to=…, a table in a folder that you can write")
    leave("no table is written, and the same command begins anew")
    urls = write_failed(settings, to)
    leave(f"{to} is complete")
    print(f"{to}: {urls:,} URLs to try once more")


if __name__ == "__main__":
    command(run, config_name="failed", schema=FailedSettings)
