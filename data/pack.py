"""`python -m data.pack source=… to=…`: a folder or a table of images and texts becomes shards.

A table (TSV, CSV, parquet) has a row per text. Rows of the same image become one pair with several
captions. A folder is read as a table of one row per image with four columns: `path`; `sidecar`, the
text of the .txt beside it; `folder`, the name of its folder; and `name`, its own.

Pairs are shuffled before they are cut into shards: a table sorted by class would give correlated
batches otherwise. Images are known by their content and copied byte for byte; kinds other than
JPEG, PNG and WebP become PNG, upright RGB. The shards come with a manifest and, on request, a
vocabulary. The folder is written whole or not at all. All that is in the source and in no pair is
counted at the end. Memory: the table's texts and paths.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from align_train.config.compose import command
from align_train.files import whole

from .packing.collect import collect
from .packing.images import Spool
from .packing.settings import PackSettings, check


def run(settings: PackSettings) -> None:
    """Packs the source into a new folder."""
    # Imported here, so that `--help` does not wait for torch.
    from .packing.write import write

    to = Path(settings.to).expanduser()
    check(settings, to)

    with Spool(to) as spool:
        found = collect(settings, spool)
        # One shuffle of all pairs, by the seed: the same source gives the same shards.
        Random(settings.seed).shuffle(found.pairs)
        with whole(to) as aside:
            written = write(found.pairs, aside, settings)

    texts = sum(map(len, written.texts))
    print(
        f"{to}: {len(written.texts):,} pairs with {texts:,} texts in {written.shards:,} shards, "
        f"of {found.rows:,} rows"
    )
    found.left_out.add("bad images", count=written.bad)
    if found.left_out.total():
        print(f"left out: {found.left_out}")


if __name__ == "__main__":
    command(run, config_name="pack", schema=PackSettings)
