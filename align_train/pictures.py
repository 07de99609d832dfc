"""Pictures that a run shows: contact sheets, hits, curves, matrices. Pillow draws the sheets, matplotlib the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_RIGHT, _WRONG = "#1a9850", "#d73027"
_LINE, _LINES = 24, 3  # characters a line, lines under a picture
_SIDE, _MARGIN = 112, 8  # of a hit
_NAMED = 80  # rows and columns of a matrix whose names can still be read


class Hit(NamedTuple):
    """A picture that a query found: pixels `[height, width, 3]`, what to write under it, and whether it is right, if known."""

    pixels: NDArray[np.uint8]
    note: str
    right: bool | None = None


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Whole or not at all."""
    aside = path.with_name(f".{path.name}")
    try:
        sheet.save(aside, "PNG")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


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
        pen.multiline_text((x, y + side + 3), _lines(caption), fill="black", spacing=1, font_size=10)
    return sheet


def _lines(text: str) -> str:
    """Cut into short lines, in what Pillow's built-in font can draw."""
    printable = text.encode("latin-1", "replace").decode("latin-1")
    return "\n".join(printable[start : start + _LINE] for start in range(0, min(len(printable), _LINE * _LINES), _LINE))


def draw_answers(
    images: Callable[[int], NDArray[np.uint8]], answers: Sequence[str], right: Sequence[bool], path: Path, *, limit: int = 40
) -> None:
    """A contact sheet of the first pictures over what was answered for them. images: by number."""
    shown = range(min(limit, len(answers)))
    sheet = contact_sheet([images(n) for n in shown], answers[: len(shown)], right=right[: len(shown)])
    save_sheet(sheet, path)


def hit_sheet(rows: Sequence[tuple[str, NDArray[np.uint8] | None, Sequence[Hit]]]) -> Image.Image:
    """A row per query, its text and, where it has one, its picture on the left, its hits beside it, best first; framed green
    where right, red where wrong."""
    cell, height = _SIDE + _MARGIN, _SIDE + 24
    most = max((len(hits) for _, _, hits in rows), default=0)
    sheet = Image.new("RGB", ((2 + most) * cell + _MARGIN, len(rows) * height + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (text, picture, hits) in enumerate(rows):
        y = _MARGIN + number * height
        pen.multiline_text((_MARGIN, y + 4), _lines(text), fill="black", spacing=2, font_size=11)
        if picture is not None:
            sheet.paste(_small(picture), (cell + _MARGIN, y))
        for place, hit in enumerate(hits, start=2):
            x = _MARGIN + place * cell
            if hit.right is not None:
                pen.rectangle((x - 3, y - 3, x + _SIDE + 2, y + _SIDE + 2), fill=_RIGHT if hit.right else _WRONG)
            sheet.paste(_small(hit.pixels), (x, y))
            pen.text((x, y + _SIDE + 4), _lines(hit.note).partition("\n")[0], fill="black", font_size=10)
    return sheet


def _small(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)


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


def draw_lines(lines: Mapping[str, Sequence[tuple[float, float]]], path: Path, *, across: str, up: str) -> None:
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


def draw_confusion(matrix: NDArray[np.int64], names: Sequence[str], path: Path, *, title: str) -> None:
    """`[true class, class given]` counts as a heat map, each row as shares of its class."""
    pyplot = _pyplot()
    side = min(14.0, 4 + 0.16 * len(names))
    figure, axis = pyplot.subplots(figsize=(side + 1, side))
    shown = axis.imshow(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1), cmap="magma", vmin=0, vmax=1)
    _name_axes(axis, names, names)
    axis.set_xlabel("class given")
    axis.set_ylabel("class")
    axis.set_title(f"{title}: share of each class", fontsize=10)
    figure.colorbar(shown, fraction=0.04)
    figure.tight_layout()
    _save(figure, path)


def draw_similarity(
    matrix: NDArray[np.float32], images: Sequence[NDArray[np.uint8]], captions: Sequence[str], path: Path, *, title: str
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
    axis.set_xticks(np.arange(len(names)) + 0.5, [_plain(name) for name in names], rotation=90, fontsize=7)
    axis.set_title(f"{title}: cosines of pictures and texts", fontsize=10, loc="left")
    figure.colorbar(shown, fraction=0.04)
    figure.tight_layout()
    _save(figure, path)


def _name_axes(axis: Any, rows: Sequence[str], columns: Sequence[str]) -> None:
    if len(rows) > _NAMED:
        return
    axis.set_xticks(range(len(columns)), [_plain(name) for name in columns], rotation=90, fontsize=6)
    axis.set_yticks(range(len(rows)), [_plain(name) for name in rows], fontsize=6)


def _plain(text: str) -> str:
    """What matplotlib would take for mathematics, as text."""
    return text.replace("$", r"\$")


def draw_curves(rows: Sequence[Mapping[str, str]], path: Path, *, title: str) -> None:
    """One small plot per column of metrics.csv over the step, as one picture."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in ("step", "pairs_seen")]
    points = {name: [(int(row["step"]), float(row[name])) for row in rows if row.get(name)] for name in names}
    points = {name: values for name, values in points.items() if values}
    if not points:
        return
    columns = min(4, len(points))
    lines = -(-len(points) // columns)
    figure, axes = _pyplot().subplots(lines, columns, figsize=(3.6 * columns, 2.6 * lines), squeeze=False, layout="constrained")
    for axis, (name, values) in zip(axes.flat, points.items(), strict=False):
        steps, numbers = zip(*values, strict=True)
        axis.plot(steps, numbers, marker="o" if len(values) < 20 else None, markersize=3, linewidth=1.2)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(points) :]:
        axis.axis("off")
    figure.suptitle(f"{title}, by optimizer step", fontsize=10)
    _save(figure, path)
