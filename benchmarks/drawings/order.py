"""How shards become lanes, and lanes become batches; what a resumed run does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from align_train.stream.order import Order
from benchmarks.drawings.canvas import COLOURS, QUIET, arrow, box, frame, page, save, text

SHARDS, PAIRS, LANES, BATCH = 6, 8, 4, 8
ORDER = Order(counts=[PAIRS] * SHARDS, seed=3, lanes=LANES, window=6)
LENGTH = SHARDS * PAIRS // LANES  # positions of a lane in an epoch
PER_LANE = BATCH // LANES


def draw_lanes(path: Path) -> None:
    """Shards of an epoch above, the lanes that are cut from them below, batches as columns."""
    figure, axes = page(8, 4.6)
    _shards(axes, top=42)

    text(axes, 40, 33.6, "permuted by (seed, epoch), laid end to end, cut into 4 equal lanes")
    text(axes, 40, 31.6, "within a lane, pairs are shuffled in windows", colour=QUIET)
    arrow(axes, (40, 30.8), (40, 27.4))

    left, top, width, height = 12, 23, 5.2, 4
    for lane in range(LANES):
        y = top - lane * height
        text(axes, left - 1, y + height / 2, f"lane {lane}", across="right")
        for position in range(LENGTH):
            shard, pair = _pair_at(lane, position)
            x = left + position * width
            box(axes, x, y, width, height - 0.6, COLOURS[shard])
            text(axes, x + width / 2, y + 1.7, f"{shard}/{pair}", size=8)

    for step in range(LENGTH // PER_LANE):
        x = left + step * PER_LANE * width
        frame(axes, x + 0.2, top - 3 * height - 0.1, PER_LANE * width - 0.4, 4 * height - 0.4)
        text(axes, x + PER_LANE * width / 2, 8.6, f"step {step + 1}", bold=True)

    text(axes, 40, 5, "A global batch takes the next 2 pairs of every lane: 8 pairs.")
    text(axes, 40, 2.8, "2 processes: the first reads lanes 0 and 1, the second lanes 2 and 3.")
    save(figure, path)


def draw_resume(path: Path) -> None:
    """The same six steps, by four processes until the fourth step and by two from there on."""
    figure, axes = page(8, 3.1)
    left, width, top, height = 17, 9.6, 20, 3.2

    for step in range(LENGTH // PER_LANE):
        x = left + step * width
        processes = 4 if step < 4 else 2
        text(axes, x + width / 2, 25.6, f"step {step + 1}", bold=True)
        _batch(axes, step, x, top, width, height)
        for cut in range(1, processes):
            y = top + height - cut * 4 * height / processes
            axes.plot([x + 0.3, x + width - 0.6], [y, y], color="black", linewidth=2.2)

    text(axes, left - 1, 17, "pairs of the\nglobal batch,\n2 a lane", across="right")
    stopped = left + 4 * width - 0.15
    axes.plot([stopped, stopped], [7.4, 27.6], color="#cc0000", linestyle="--", linewidth=1.5)
    text(axes, left + 2 * width, 28.6, "4 processes", colour=QUIET)
    text(axes, left + 5 * width, 28.6, "2 processes", colour=QUIET)

    state = f"killed after step 4: cursor = 4 × {BATCH} = {4 * BATCH}"
    text(axes, stopped, 6, state, bold=True)
    text(axes, 40, 3, "Step 5 is computed from (manifest, seed, cursor). Nothing is replayed.")
    save(figure, path)


def _shards(axes: Axes, *, top: float) -> None:
    """Draws the manifest's shards as rows of pairs."""
    width = 11.6
    for shard in range(SHARDS):
        x = 5.5 + shard * width
        box(axes, x, top - 4.5, width - 1, 4, COLOURS[shard])
        text(axes, x + width / 2 - 0.5, top - 2.5, f"shard {shard}, {PAIRS} pairs", size=8)
    arrow(axes, (40, top - 5), (40, top - 7.4))


def _batch(axes: Axes, step: int, x: float, top: float, width: float, height: float) -> None:
    """Draws a step's pairs: a row a lane."""
    cell = (width - 0.9) / PER_LANE
    for lane in range(LANES):
        for place in range(PER_LANE):
            shard, pair = _pair_at(lane, step * PER_LANE + place)
            corner = x + 0.3 + place * cell
            box(axes, corner, top - lane * height, cell, height, COLOURS[shard])
            middle = top - lane * height + height / 2
            text(axes, corner + cell / 2, middle, f"{shard}/{pair}", size=7.5)


def _pair_at(lane: int, position: int) -> tuple[int, int]:
    """Returns the shard and the pair that a lane gives at a position."""
    visits = ORDER.at(np.array([lane]), np.array([position]))
    return int(visits.shard[0]), int(visits.pair[0])
