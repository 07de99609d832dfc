"""The tab that searches an embedded collection by a text, an image, or both."""

from __future__ import annotations

from functools import partial

import gradio

from align_train.errors import UserError, shown
from align_train.serving.answers import Query
from align_train.serving.page.desk import Desk, answer_by, naming_files
from align_train.serving.page.drawn import Found, hits, note
from align_train.serving.page.picker import picker
from align_train.serving.searched import Hit
from align_train.serving.service import Service

_NO_INDEX = (
    "There is no collection to search. Make one by `align-train embed model=RUN shards=FOLDER "
    "to=FOLDER`, and give the server index=FOLDER."
)
_START = "Type a text, choose an image, or both, and press Search."
_MOST = 48  # images
_LONGEST = 120  # characters of a caption


def search_tab(desk: Desk) -> None:
    """Builds the tab, inside the page's blocks.

    Args:
        desk: What it needs.
    """
    # The tab stays without a collection: it says how to get one.
    if desk.service.searched is None:
        gradio.HTML(note(_NO_INDEX), elem_id="no-index", apply_default_css=False)
        return

    searched = desk.service.searched
    most = min(_MOST, desk.limits.max_top)
    with gradio.Row(equal_height=False):
        with gradio.Column(scale=1, min_width=300):
            text = gradio.Textbox(
                label="Text", placeholder="a red heart", lines=1, max_lines=3, elem_id="query-text"
            )
            away = gradio.Textbox(
                label="But not", info="A text to move away from.", lines=1, elem_id="query-away"
            )
            image = picker("Image", examples=desk.examples, limits=desk.limits)
            ask = gradio.Button("Search", variant="primary", elem_id="search")
            with gradio.Accordion("Weights", open=False):
                text_weight = _weight("of the text", 2.0)
                image_weight = _weight("of the image", 1.0)
                away_weight = _weight("of “but not”", 1.0)
            top = gradio.Slider(
                1, most, value=min(12, most), step=1, label="Images to show", elem_id="top"
            )
        with gradio.Column(scale=2, min_width=300):
            answer = gradio.HTML(note(_START), elem_id="found", apply_default_css=False)

    about = f"{len(searched):,} images, embedded by {searched.model}."
    answer_by(
        # `release` of sliders, not `change`: one that is dragged would ask at each step.
        [ask.click, text.submit, away.submit, image.input, top.release]
        + [slider.release for slider in (text_weight, image_weight, away_weight)],
        partial(found, desk, about),
        [text, away, image, text_weight, image_weight, away_weight, top],
        answer,
    )


def _weight(label: str, value: float) -> gradio.Slider:
    return gradio.Slider(0, 4, value=value, step=0.1, label=f"Weight {label}")


def found(
    desk: Desk,
    about: str,
    text: str,
    away: str,
    value: object,
    text_weight: float,
    image_weight: float,
    away_weight: float,
    top: int,
) -> str:
    """Answers the tab's question, as HTML.

    Args:
        desk: The service and its limits.
        about: What is searched.
        text: To look for; empty: none.
        away: To move away from; empty: none.
        value: The image, as the field sends it.
        text_weight: Of the text.
        image_weight: Of the image.
        away_weight: Of the text to move away from.
        top: How many images are wanted.

    Raises:
        UserError: Something is missing, wrong or too large.
    """
    sent = desk.images(value)[:1]
    if not sent and not text.strip():
        return note(_START)

    query = Query(
        text=desk.limits.text(text.strip(), "text") or None,
        image=sent[0].upload if sent else None,
        away=desk.limits.text(away.strip(), "but not") or None,
        text_weight=text_weight,
        image_weight=image_weight,
        away_weight=away_weight,
    )
    with naming_files(sent):
        matches = desk.service.search(query, top=int(top))
    return hits([_found(desk.service, match) for match in matches]) + note(about)


def _found(service: Service, hit: Hit) -> Found:
    caption = " ".join((hit.texts or [hit.source or hit.key])[0].split())
    try:
        # A shard may be gone since: the other hits are shown all the same.
        image = service.image(hit.image)
    except UserError:
        image = None
    return Found(image, shown(caption, _LONGEST), hit.cosine)
