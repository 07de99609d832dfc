"""The pairs with the best and the worst scores, as two contact sheets beside the scores.

Price: one more pass over the scores, and 24 images. Shards at URLs are not fetched for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from align_train.errors import UserError, printable
from align_train.figures.sheets import contact_sheet, save_sheet
from align_train.index.scores import Scores
from align_train.shards.remote import is_url
from align_train.stream.decode import Views, decode_centre
from align_train.stream.pairs import Pairs

_BEST = "best.png"
_WORST = "worst.png"

_COUNT = 12  # pairs of a sheet
_COLUMNS = 6

# Whole images, whatever the model saw of them.
_SHOWN = Views(image_size=224, resize_size=224)


class _Scored(NamedTuple):
    """A pair; the first of equal ones in the order of the shards comes first."""

    rank: float  # the score, or less it for the best
    shard: int
    row: int


def has_sheets(scores: Scores) -> bool:
    """Whether both sheets are there."""
    return all((scores.path / sheet).is_file() for sheet in (_BEST, _WORST))


def draw_ends(scores: Scores, pairs: Pairs, column: str) -> None:
    """Draws `best.png` and `worst.png`, unless shards lie at URLs.

    Args:
        scores: Scores of all shards.
        pairs: The pairs that were scored.
        column: Whose ends are drawn.
    """
    if any(is_url(shard.url) for shard in pairs.manifest.shards):
        return
    best, worst = _ends(scores, column)
    if not best:
        return

    try:
        _draw(scores.path / _BEST, best, pairs, column, sign=-1)
        _draw(scores.path / _WORST, worst, pairs, column, sign=1)
    except (UserError, ValueError, OSError) as error:
        # The scores are whole all the same.
        print(f"no images of the best and the worst pairs: {printable(str(error))}", flush=True)
        return
    print(f"{scores.path}/best.png, worst.png: the pairs at both ends", flush=True)


def _ends(scores: Scores, column: str) -> tuple[list[_Scored], list[_Scored]]:
    """The best and the worst pairs, those with NaN left out."""
    best: list[_Scored] = []
    worst: list[_Scored] = []
    for shard in range(len(scores.header.shards)):
        _, columns = scores.read(shard)
        values = columns[column]
        order = np.argsort(values, kind="stable")
        # NaN comes last.
        order = order[: np.count_nonzero(~np.isnan(values))]

        worst += [_Scored(float(values[row]), shard, int(row)) for row in order[:_COUNT]]
        best += [_Scored(-float(values[row]), shard, int(row)) for row in order[-_COUNT:]]
        # Cut after each shard: memory does not grow with their number.
        worst = sorted(worst)[:_COUNT]
        best = sorted(best)[:_COUNT]
    return best, worst


def _draw(path: Path, scored: list[_Scored], pairs: Pairs, column: str, *, sign: int) -> None:
    """Draws a sheet of one end of a column. sign: from a pair's rank to its score."""
    images = []
    captions = []
    for pair in scored:
        reader = pairs.reader(pair.shard)
        images.append(decode_centre(reader.image(pair.row), _SHOWN))
        texts = " | ".join(reader.all_texts(pair.row))
        captions.append(f"{sign * pair.rank:.3f} {texts}")
    end = "highest" if sign < 0 else "lowest"
    title = f"The pairs with the {end} {column}"
    save_sheet(contact_sheet(images, captions, title=title, columns=_COLUMNS), path)
