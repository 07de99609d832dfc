"""How a global batch is cut: norm groups, device batches, chunks; and the tiles of its loss."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes

from benchmarks.drawings.canvas import COLOURS, QUIET, arrow, box, frame, page, save, text

PAIRS, GROUP = 32, 4
LEFT, CELL = 8.0, 2.0


def draw_batch(path: Path) -> None:
    """One batch on one process and on two: the same norm groups, other chunks."""
    figure, axes = page(8, 4.4)

    text(axes, 40, 42, f"global batch: batch_size={PAIRS} pairs", bold=True)
    _row(axes, 36.5)
    text(
        axes,
        40,
        34.8,
        "each colour is a norm group: norm_group=4 pairs share BatchNorm's statistics",
    )

    text(axes, LEFT, 29.6, "1 process, chunk_size=16", across="left", bold=True)
    _row(axes, 24)
    _chunks(axes, 24, size=16)
    text(axes, 40, 21.4, "2 chunks go through the towers one after the other", colour=QUIET)

    text(axes, LEFT, 17, "2 processes, chunk_size=8", across="left", bold=True)
    _row(axes, 11.4)
    _chunks(axes, 11.4, size=8)
    for process in range(2):
        middle = LEFT + (process + 0.5) * 16 * CELL
        text(axes, middle, 8.6, f"rank {process}: device batch of 16, 2 chunks", colour=QUIET)
    middle = LEFT + 16 * CELL
    axes.plot([middle, middle], [7.4, 16.2], color="black", linewidth=1.5, linestyle="--")

    text(axes, 40, 4.2, "Groups belong to the recipe, chunks to the hardware:")
    text(axes, 40, 2, "both machines compute the same loss and the same gradients.")
    save(figure, path)


def draw_tiles(path: Path) -> None:
    """The logits of the global batch, of which a rank holds a tile of its rows at a time."""
    figure, axes = page(8, 3.6)
    left, below, side, ranks = 12.0, 6.0, 6.0, 4

    for rank in range(ranks):
        y = below + (ranks - 1 - rank) * side
        text(axes, left - 1, y + side / 2, f"images of rank {rank}", across="right", size=8)
        for column in range(ranks):
            own = "#dddddd" if rank != 1 else COLOURS[1] if column == 2 else "#fff0d8"
            box(axes, left + column * side, y, side, side, own)
            if column == rank:
                text(axes, left + (column + 0.5) * side, y + side / 2, "positives", size=7)
    text(axes, left + 2 * side, below - 2, "texts of all ranks", size=8)
    frame(axes, left, below + 2 * side, ranks * side, side)

    words = [
        "Rank 1 computes one row of tiles, a tile at a time.",
        "A tile gives images → texts by its rows",
        "and texts → images by its columns.",
        "Ranks add up the sums of columns.",
        "The backward pass makes each tile again.",
    ]
    for line, word in enumerate(words):
        text(axes, 41.5, 27 - 3 * line, word, across="left")
    arrow(axes, (41, 21), (left + 3.4 * side, below + 2.5 * side))
    text(axes, 41.5, 9, "Memory: batch × dimension,", across="left", bold=True)
    text(axes, 41.5, 6.6, "never batch × batch.", across="left", bold=True)
    save(figure, path)


def _row(axes: Axes, y: float) -> None:
    for pair in range(PAIRS):
        colour = COLOURS[pair // GROUP % 4]
        box(axes, LEFT + pair * CELL, y, CELL, 3.4, colour)


def _chunks(axes: Axes, y: float, *, size: int) -> None:
    for chunk in range(PAIRS // size):
        x = LEFT + chunk * size * CELL
        frame(axes, x + 0.25, y - 0.5, size * CELL - 0.5, 4.4)
