"""The tab that compares several images with several texts, as a matrix for each model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import gradio
import torch

from align_train.errors import UserError
from align_train.serving.answers import read_scores
from align_train.serving.page.desk import Desk, Named, answer_by, texts_field
from align_train.serving.page.drawn import THUMBNAIL, columns, matrix, note
from align_train.serving.page.models import models_field, side_by_side
from align_train.serving.page.picker import picker
from align_train.serving.served import Kind
from align_train.stream.upright import upright

_MOST_IMAGES = 8
_FEW_TEXTS = 3  # whose matrices fit beside each other
_COSINES = "cosines"
_SHARES = "probabilities"

_READ: dict[Kind, str] = {
    "cosine": "Cosines from -1 to 1. The fullest colour is the largest; bold is the best of a row.",
    "softmax": "Each row shares 100 % among the texts; bold is the best of a row.",
    "sigmoid": "Each cell is a probability of its own: this model was trained so.",
}


def compare_tab(desk: Desk) -> None:
    """Builds the tab, inside the page's blocks.

    Args:
        desk: What it needs.
    """
    with gradio.Row(equal_height=False):
        with gradio.Column(scale=1, min_width=300):
            images = picker(
                "Images",
                examples=desk.examples,
                limits=desk.limits,
                max_images=_MOST_IMAGES,
            )
            texts = texts_field(desk.labels, "Texts")
            shows = gradio.Radio(
                [_COSINES, _SHARES], value=_COSINES, label="Numbers", elem_id="shows"
            )
            models = models_field(desk.service.names)
        with gradio.Column(scale=2, min_width=300):
            answer = gradio.HTML(_start(), elem_id="compared", apply_default_css=False)

    answer_by(
        [images.input, texts.change, shows.change, models.change],
        partial(compared, desk),
        [images, texts, shows, models],
        answer,
    )


def _start() -> str:
    return note(f"Choose up to {_MOST_IMAGES} images, and each is compared with each text here.")


def compared(desk: Desk, value: object, texts: str, shows: str, models: Sequence[str]) -> str:
    """Answers the tab's question, as HTML.

    Args:
        desk: The service and its limits.
        value: The images, as the field sends them.
        texts: As they were typed.
        shows: Which numbers.
        models: The names of the models.

    Raises:
        UserError: Something is missing, wrong or too large.
    """
    sent = desk.images(value)
    if not sent:
        return _start()
    # The field in the browser has the same bound, but a client need not keep it.
    if len(sent) > _MOST_IMAGES:
        raise UserError(f"images: {len(sent)}; at most {_MOST_IMAGES}")
    asked = desk.texts(texts, "texts")
    if not asked:
        raise UserError("Type at least one text.")

    body = partial(_body, desk, sent=sent, texts=asked, as_shares=shows == _SHARES)
    answers = side_by_side(desk.service, models, sent, body)
    return columns(answers, are_wide=len(asked) > _FEW_TEXTS)


def _body(
    desk: Desk, name: str, *, sent: Sequence[Named], texts: list[str], as_shares: bool
) -> str:
    """A model's answer."""
    # A line in its column, not an error: the other models answer beside it.
    if desk.service.one(name).is_classifier:
        return note("A classifier compares no texts.")
    answer = desk.service.similarity(name, [image.upload for image in sent], texts)

    numbers = torch.from_numpy(answer.cosines)
    reading: Kind = "cosine"
    if as_shares:
        reading, numbers = read_scores(answer.kind, numbers, torch.from_numpy(answer.logits))
    # After the service has decoded them within its limits, which this call does not know.
    images = [upright(image.upload.data, needed=THUMBNAIL) for image in sent]
    names = [image.name for image in sent]
    drawn = matrix(images, names, texts, numbers.tolist(), as_percent=reading != "cosine")
    return drawn + note(_READ[reading])
