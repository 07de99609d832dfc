"""Pictures that a run shows: contact sheets and curves. Pillow draws the sheets, matplotlib the curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_RIGHT, _WRONG = "#1a9850", "#d73027"
_LINE, _LINES = 24, 3  # characters a line, lines under a picture


def contact_sheet(
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    *,
    right: Sequence[bool] | None = None,
    columns: int = 8,
    side: int = 144,
) -> Image.Image:
    """Pictures `[height, width, 3]` in rows, each over its caption; framed green where `right`, else red."""
    margin, text_height = 8, 40
    cell_width, cell_height = side + margin, side + text_height
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (min(columns, len(images)) * cell_width + margin, rows * cell_height + margin), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = margin + number % columns * cell_width, margin + number // columns * cell_height
        if right is not None:
            frame = (x - 3, y - 3, x + side + 2, y + side + 2)
            pen.rectangle(frame, fill=_RIGHT if right[number] else _WRONG)
        sheet.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR), (x, y))
        printable = caption.encode("latin-1", "replace").decode("latin-1")  # what Pillow's built-in font can draw
        lines = [printable[start : start + _LINE] for start in range(0, min(len(printable), _LINE * _LINES), _LINE)]
        pen.multiline_text((x, y + side + 3), "\n".join(lines), fill="black", spacing=1, font_size=10)
    return sheet


def draw_curves(rows: Sequence[Mapping[str, str]], path: Path, *, title: str) -> None:
    """One small plot per column of metrics.csv over the step, as one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in rows[-1] if name not in ("step", "pairs_seen")] if rows else []
    points = {name: [(int(row["step"]), float(row[name])) for row in rows if row.get(name)] for name in names}
    points = {name: values for name, values in points.items() if values}
    if not points:
        return
    columns = min(4, len(points))
    lines = -(-len(points) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(3.6 * columns, 2.6 * lines), squeeze=False)
    for axis, (name, values) in zip(axes.flat, points.items(), strict=False):
        steps, numbers = zip(*values, strict=True)
        axis.plot(steps, numbers, marker="o" if len(values) < 20 else None, markersize=3, linewidth=1.2)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(points) :]:
        axis.axis("off")
    figure.suptitle(f"{title}, by optimizer step", fontsize=10)
    figure.tight_layout()
    aside = path.with_name(f".{path.name}")
    figure.savefig(aside, dpi=100, format="png")
    pyplot.close(figure)
    aside.replace(path)
