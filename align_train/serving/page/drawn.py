"""Answers as HTML: bars, a matrix, images that were found, and messages.

Every text in it is a stranger's, a label, a caption or a file's name, so all of it is escaped.
Numbers stand beside every colour, and the best is bold: nobody needs to tell colours apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain

from PIL import Image

from align_train.errors import printable
from align_train.serving.page.picker import image_url, jpeg_url
from align_train.serving.served import Kind

THUMBNAIL = 112  # pixels, of an image beside its numbers
_LIGHT_TEXT = 0.68  # a cell that is fuller than this has white letters, for their contrast

_READ: dict[Kind, str] = {
    "softmax": "The scores share 100 % among the labels.",
    "sigmoid": "Each score is a probability of its own: the model was trained so.",
    "cosine": "A cosine, from -1 to 1: one label alone has nothing to share 100 % with. "
    "Add another for probabilities.",
}


@dataclass(frozen=True)
class Scored:
    """A label and its numbers.

    Attributes:
        label: The label.
        score: By the kind of answer.
        cosine: Between -1 and 1; None: a classifier has none.
    """

    label: str
    score: float
    cosine: float | None


@dataclass(frozen=True)
class Found:
    """An image that a search found.

    Attributes:
        image: A small JPEG; None: its shard is gone.
        caption: Its text.
        cosine: With the query.
    """

    image: bytes | None
    caption: str
    cosine: float


def message(text: str) -> str:
    """A line that says what is wrong."""
    return f'<p class="say" role="alert">{_text(text)}</p>'


def note(text: str) -> str:
    """A line that says what to do, or what is shown."""
    return f'<p class="note">{_text(text)}</p>'


def columns(answers: Sequence[str], *, are_wide: bool = False) -> str:
    """Puts the models' answers side by side, or wide ones below each other."""
    wide = " wide" if are_wide else ""
    return f'<div class="models-answers{wide}">{"".join(answers)}</div>'


def column(model: str, kind: str, body: str) -> str:
    """A model's answer under its name.

    Args:
        model: Its name.
        kind: What sort of model it is.
        body: The answer.
    """
    return (
        f'<section class="model-answer" aria-label="{_text(model)}">'
        f"<h3>{_text(model)} <small>{_text(kind)}</small></h3>{body}</section>"
    )


def bars(
    kind: Kind, rows: Sequence[Scored], *, most: int | None = None, reading: str | None = None
) -> str:
    """Draws scores as bars, the largest first.

    Args:
        kind: How to read the scores.
        rows: At least one.
        most: Bars to draw; None: all.
        reading: The line below; None: that of the kind.
    """
    ordered = sorted(rows, key=lambda row: -row.score)[:most]
    lines = []
    for place, row in enumerate(ordered):
        lines.append(_bar(kind, row, is_best=place == 0))
    return f'<ol class="bars">{"".join(lines)}</ol>{note(reading or _READ[kind])}'


def _bar(kind: Kind, row: Scored, *, is_best: bool) -> str:
    share = row.score
    number = percent(row.score)
    cosine = "" if row.cosine is None else f'<span class="cosine">cosine {row.cosine:.3f}</span>'
    if kind == "cosine":
        # The whole bar is 1, and an empty one -1.
        share = (row.score + 1) / 2
        number = f"{row.score:.3f}"
        cosine = ""
    best = ' class="best"' if is_best else ""
    return (
        f'<li{best} data-score="{row.score:.8f}"><span class="label">{_text(row.label)}</span>'
        f'{cosine}<span class="number">{number}</span>'
        f'<span class="track"><span style="width:{100 * share:.2f}%"></span></span></li>'
    )


def percent(share: float) -> str:
    """Spells a share of 1, never rounded to nothing or to all."""
    # With one decimal these would read 0.0 % and 100.0 %.
    if 0 < share < 0.0005:
        return "&lt;0.1 %"
    if 0.9995 <= share < 1:
        return "&gt;99.9 %"
    return f"{100 * share:.1f} %"


def matrix(
    images: Sequence[Image.Image],
    names: Sequence[str],
    texts: Sequence[str],
    numbers: Sequence[Sequence[float]],
    *,
    as_percent: bool,
) -> str:
    """Draws a number for each image and text: the larger, the fuller the colour of its cell.

    Args:
        images: `[images]`.
        names: Of their files.
        texts: `[texts]`.
        numbers: `[images, texts]`.
        as_percent: Whether they are shares of 1; else cosines, and the largest is the fullest.
    """
    every = list(chain.from_iterable(numbers))
    low, high = (0.0, 1.0) if as_percent else (min(every), max(every))
    # All cosines may be equal, for instance with one image and one text.
    span = (high - low) or 1.0

    head = "".join(f'<th scope="col"><span>{_text(text)}</span></th>' for text in texts)
    lines = []
    for image, name, row in zip(images, names, numbers, strict=True):
        cells = []
        for number in row:
            spelled = percent(number) if as_percent else f"{number:.3f}"
            cells.append(_cell(number, spelled, (number - low) / span, is_best=number == max(row)))
        lines.append(f'<tr><th scope="row">{_thumbnail(image, name)}</th>{"".join(cells)}</tr>')
    return (
        '<div class="scroll" tabindex="0"><table class="matrix"><thead><tr><td></td>'
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(number: float, spelled: str, fullness: float, *, is_best: bool) -> str:
    kinds = ["best"] if is_best else []
    kinds += ["full"] if fullness > _LIGHT_TEXT else []
    return (
        f'<td class="{" ".join(kinds)}" style="--fullness:{100 * fullness:.0f}%" '
        f'data-number="{number:.8f}">{spelled}</td>'
    )


def _thumbnail(image: Image.Image, name: str) -> str:
    # `thumbnail` changes an image in place.
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return f'<img src="{image_url(small)}" alt="{_text(name)}" title="{_text(name)}">'


def hits(found: Sequence[Found]) -> str:
    """Draws the images that a search found, nearest first."""
    figures = []
    for place, hit in enumerate(found, start=1):
        shown = '<div class="gone">no image: its shard is gone</div>'
        if hit.image is not None:
            shown = f'<img src="{jpeg_url(hit.image)}" alt="{_text(hit.caption)}">'
        figures.append(
            f'<figure>{shown}<figcaption><span class="number">{place}. cosine {hit.cosine:.3f}'
            f"</span>{_text(hit.caption)}</figcaption></figure>"
        )
    return f'<div class="hits">{"".join(figures)}</div>'


def _text(text: str) -> str:
    return escape(printable(text))
