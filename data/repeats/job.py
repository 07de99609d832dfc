"""The story of `data.repeats`: from a collection of embeddings to a selection without repeats.

1. The embeddings in one file, and their images in the order in which they stay (`rows.py`).
2. Cells of images that lie near each other (`cells.py`).
3. Who stays (`greedy.py`).
4. A manifest with a selection, the report and a contact sheet.

The folder is written under a hidden name and renamed at the end, so that a folder that exists is
whole. A killed command begins anew, and removes what is left of the former one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from align_train.cluster.interruption import leave
from align_train.commands.open_images import open_images
from align_train.errors import UserError
from align_train.index.collection import Collection
from align_train.shards.manifest import MANIFEST_NAME
from align_train.stream.decode import Views
from align_train.stream.pairs import Pairs
from align_train.stream.shard_cache import shard_cache_of

from ..packing.beside import whole_folder
from .cells import make_cells
from .greedy import STAYS, find_keepers
from .joined import JoinedScores
from .keys import TarKeys
from .report import Report, groups_of, print_result, summarise, write_report, write_sheet
from .rows import Ints, Rows, read_rows
from .settings import RepeatsSettings, cells_of

_ROWS = ".rows"  # the embeddings, while the command runs
_VIEWS = Views(image_size=224, resize_size=224)  # of images on the sheet, which are shown whole


def select(settings: RepeatsSettings) -> Report:
    """Selects the images that stay.

    Args:
        settings: The command's settings, which are checked.

    Returns:
        The report, as `report.json` has it.

    Raises:
        UserError: The collection, the scores or the shards are not as expected.
    """
    leave("nothing is saved, and the same command begins anew")
    to = Path(settings.to).expanduser()
    collection = Collection.open(Path(settings.source).expanduser().absolute())
    pairs = _open_pairs(collection, settings)
    scores = None
    if settings.scores is not None:
        scores = JoinedScores(settings.scores, settings.score, pairs.manifest)

    keys = TarKeys(collection, pairs)
    with whole_folder(to) as aside:
        rows = read_rows(collection, keys, scores, aside / _ROWS)
        cells = make_cells(rows, cells_of(settings, len(rows)), settings.probes)
        cells.say_large(len(rows))
        keepers = find_keepers(rows, cells, settings.threshold)

        # Ranks from here on are images: the selection knows no ranks.
        keeper_of = _by_image(rows, keepers, len(collection))
        _write_selection(pairs, keys, keeper_of, aside)

        report = summarise(settings, collection, rows, cells, keeper_of)
        write_report(report, aside)
        write_sheet(groups_of(keeper_of, rows), collection, pairs, aside)
        # Ends the mapping of the file that is removed next.
        del rows
        (aside / _ROWS).unlink()
    leave(f"{to} is complete")

    print_result(report, collection, to)
    return report


def _open_pairs(collection: Collection, settings: RepeatsSettings) -> Pairs:
    """The pairs of the shards that the collection was made of."""
    made_with = collection.settings
    options = settings.storage_options
    try:
        pairs = open_images(
            made_with.shards,
            plain=False,
            caption=made_with.caption,
            image=made_with.image,
            keys=made_with.keys,
            views=_VIEWS,
            cache=shard_cache_of(None, options),
            progress=True,
        )
    except UserError as error:
        if error.status != UserError.status:
            raise
        raise UserError(f"source={settings.source}: was made of {error}") from None

    pairs.manifest.refuse_rates("source")

    # Other shards would have other pairs in the same places.
    if pairs.manifest.identity != made_with.manifest:
        raise UserError(
            f"{made_with.shards}: other pairs than those that were embedded; embed these, or "
            f"restore the others"
        )
    return pairs


def _by_image(rows: Rows, keepers: Ints, images: int) -> Ints:
    """The keeper of each image, or -1 for those that stay, `[images]`."""
    keeper_of = np.full(images, -1, dtype=np.int64)
    goes = np.flatnonzero(keepers != STAYS)
    keeper_of[rows.images[goes]] = rows.images[keepers[goes]]
    return keeper_of


def _write_selection(pairs: Pairs, keys: TarKeys, keeper_of: Ints, folder: Path) -> None:
    """Writes the manifest of the images that stay."""

    def kept() -> Iterator[NDArray[np.bool_]]:
        first = 0
        for shard, count in enumerate(pairs.manifest.counts.tolist()):
            stays = keeper_of[first : first + count] < 0
            if not stays.all():
                # A collection counts pairs in the tar's order, a selection by their sorted keys.
                stays = stays[np.argsort(keys.read(shard), kind="stable")]
            yield stays
            first += count

    pairs.manifest.write(folder / MANIFEST_NAME, kept=kept(), cache=pairs.cache)
