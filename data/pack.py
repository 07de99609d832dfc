"""`python -m data.pack source=… to=…`: a folder or a table of images and texts becomes shards.

A table (TSV, CSV, parquet) has a row per text. Rows of the same image become one pair with several
captions. A folder is read as a table of one row per image with four columns: `path`; `sidecar`, the
text of the .txt beside it; `folder`, the name of its folder; and `name`, its own.

Pairs are shuffled before they are cut into shards: a table sorted by class would give correlated
batches otherwise. Images are known by their content and copied byte for byte; kinds other than
JPEG, PNG and WebP become PNG, upright RGB. The shards come with a manifest and, on request, a
vocabulary. The folder is written whole or not at all. All that is in the source and in no pair is
counted at the end, and listed in the folder. The end also shows some pairs and names the command
that trains on them. Memory: the table's texts and paths, some 1 kB a pair.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from align_train.cluster.interruption import leave
from align_train.config.command import command

from .packing.beside import whole_folder
from .packing.collect import collect
from .packing.fetched import fetched
from .packing.images import Spool
from .packing.settings import PackSettings, check


def run(settings: PackSettings) -> None:
    """Packs the source into a new folder."""
    to = Path(settings.to).expanduser()
    check(settings, to)
    leave("nothing is saved, and the same command begins anew")

    # Both last until all shards are written: till then pairs say only where their images lie.
    with Spool(to) as spool, fetched(settings, to) as source:
        found = collect(source.settings, spool, source.as_given)
        # Imported here: torch takes seconds, and most mistakes have ended the command by now.
        from .packing.report import draw_sheet, report
        from .packing.write import write

        # One shuffle of all pairs, by the seed: the same source gives the same shards.
        Random(settings.seed).shuffle(found.pairs)
        with whole_folder(to) as aside:
            written = write(found.pairs, aside, settings, found.left_out, spool)
            draw_sheet(written, aside, name=to.name)
            found.left_out.write(aside, source.as_given)
        leave(f"{to} is complete")

    # The report comes when the folder has its name: it names the files in it.
    left_out = found.left_out
    for line in report(written, to, rows=found.rows, notes=found.notes, left_out=left_out):
        print(source.as_given(line))


if __name__ == "__main__":
    command(run, config_name="pack", schema=PackSettings)
