from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NAMED = 80  # rows and columns of a matrix whose names can still be read


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path, dpi: int = 100) -> None:
    """Whole or not at all."""
    aside = path.with_name(f".{path.name}")
    try:
        figure.savefig(aside, dpi=dpi, format="png")
        aside.replace(path)
    finally:
        _pyplot().close(figure)
        aside.unlink(missing_ok=True)


def draw_lines(
    lines: Mapping[str, Sequence[tuple[float, float]]], path: Path, *, across: str, up: str
) -> None:
    """A line per name through its points; the axis across is logarithmic where it spans more than a factor of 10."""
    figure, axis = _pyplot().subplots(figsize=(6.4, 4.2))
    for name, points in lines.items():
        axis.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
    places = sorted({place for points in lines.values() for place, _ in points})
    if places[0] > 0 and places[-1] > 10 * places[0]:
        axis.set_xscale("log")
        axis.set_xticks(places, [f"{place:,g}" for place in places])
        axis.minorticks_off()
    axis.set_xlabel(across)
    axis.set_ylabel(up)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    _save(figure, path, dpi=110)


def draw_confusion(
    matrix: NDArray[np.int64], names: Sequence[str], path: Path, *, title: str
) -> None:
    """`[true class, class given]` counts as a heat map, each row as shares of its class."""
    pyplot = _pyplot()
    side = min(14.0, 4 + 0.16 * len(names))
    figure, axis = pyplot.subplots(figsize=(side + 1, side))
    shown = axis.imshow(
        matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1), cmap="magma", vmin=0, vmax=1
    )
    _name_axes(axis, names, names)
    axis.set_xlabel("class given")
    axis.set_ylabel("class")
    axis.set_title(f"{title}: share of each class", fontsize=10)
    figure.colorbar(shown, fraction=0.04)
    figure.tight_layout()
    _save(figure, path)


def draw_similarity(
    matrix: NDArray[np.float32],
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    path: Path,
    *,
    title: str,
) -> None:
    """Cosines `[pictures, texts]` of pairs as a heat map with the pictures as rows' names: pairs lie on the diagonal."""
    pyplot = _pyplot()
    side = 3 + 0.3 * len(images)
    figure, axis = pyplot.subplots(figsize=(side + 1, side + 1.5))
    shown = axis.imshow(matrix, cmap="viridis", extent=(0, len(captions), len(images), 0))
    for row, pixels in enumerate(images):
        place = axis.inset_axes((-1.1, row + 0.05, 0.9, 0.9), transform=axis.transData)
        place.imshow(pixels)
        place.axis("off")
    axis.set_yticks([])
    names = [caption if len(caption) < 40 else caption[:39] + "…" for caption in captions]
    axis.set_xticks(
        np.arange(len(names)) + 0.5, [_plain(name) for name in names], rotation=90, fontsize=7
    )
    axis.set_title(f"{title}: cosines of pictures and texts", fontsize=10, loc="left")
    figure.colorbar(shown, fraction=0.04)
    figure.tight_layout()
    _save(figure, path)


def _name_axes(axis: Any, rows: Sequence[str], columns: Sequence[str]) -> None:
    if len(rows) > _NAMED:
        return
    axis.set_xticks(
        range(len(columns)), [_plain(name) for name in columns], rotation=90, fontsize=6
    )
    axis.set_yticks(range(len(rows)), [_plain(name) for name in rows], fontsize=6)


def _plain(text: str) -> str:
    """What matplotlib would take for mathematics, as text."""
    return text.replace("$", r"\$")


def draw_curves(rows: Sequence[Mapping[str, str]], path: Path, *, title: str) -> None:
    """One small plot per column of metrics.csv over the step, as one picture."""
    names = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if name not in ("step", "pairs_seen")
    ]
    points = {
        name: [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        for name in names
    }
    points = {name: values for name, values in points.items() if values}
    if not points:
        return
    columns = min(4, len(points))
    lines = -(-len(points) // columns)
    figure, axes = _pyplot().subplots(
        lines, columns, figsize=(3.6 * columns, 2.6 * lines), squeeze=False, layout="constrained"
    )
    for axis, (name, values) in zip(axes.flat, points.items(), strict=False):
        steps, numbers = zip(*values, strict=True)
        axis.plot(
            steps, numbers, marker="o" if len(values) < 20 else None, markersize=3, linewidth=1.2
        )
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(points) :]:
        axis.axis("off")
    figure.suptitle(f"{title}, by optimizer step", fontsize=10)
    _save(figure, path)
