"""The path of one pair, from a shard to the loss."""

from __future__ import annotations

from pathlib import Path

from benchmarks.drawings.canvas import COLOURS, QUIET, arrow, box, page, save, text

STAGES = (
    ("manifest", "which shards\nthere are", "shards/manifest.py"),
    ("order", "which pairs\nstep N sees", "stream/order.py"),
    ("shard", "their bytes,\nby offset", "shards/shard.py"),
    ("decode", "pixels and\ntoken ids", "stream/decode.py"),
    ("batch", "the rank's part,\non the device", "stream/loader.py"),
    ("towers", "chunks become\nembeddings", "training/forward.py"),
    ("loss", "the whole\nglobal batch", "loss/"),
    ("optimizer", "one step; then\nlog, save, …", "training/step_end.py"),
)
WIDTH, HEIGHT, GAP = 18.0, 9.6, 3.6


def draw_path(path: Path) -> None:
    """Two rows of boxes: reading above, computing below."""
    figure, axes = page(8.8, 2.9)
    for index, (name, does, file) in enumerate(STAGES):
        row, column = divmod(index, 4)
        x, y = 2.6 + column * (WIDTH + GAP), 16.6 - row * (HEIGHT + 4.4)
        box(axes, x, y, WIDTH, HEIGHT, COLOURS[0] if row == 0 else COLOURS[1])
        text(axes, x + WIDTH / 2, y + 8, name, bold=True)
        text(axes, x + WIDTH / 2, y + 4.7, does, size=8)
        text(axes, x + WIDTH / 2, y + 1.3, file, size=7, colour=QUIET)
        if column < 3:
            arrow(axes, (x + WIDTH + 0.3, y + HEIGHT / 2), (x + WIDTH + GAP - 0.3, y + HEIGHT / 2))

    # The fourth box leads to the fifth, which stands below the first.
    last, first, between = 2.6 + 3.5 * WIDTH + 3 * GAP, 2.6 + WIDTH / 2, 14.5
    axes.plot([last, last, first], [16.5, between, between], color="#222222", linewidth=1.2)
    arrow(axes, (first, between), (first, 12))
    save(figure, path)
