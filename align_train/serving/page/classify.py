"""The tab that names what is on an image, among labels that a person types."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import gradio

from align_train.evals.prompts import template_sets
from align_train.serving.page.desk import Desk, answer_by, texts_field
from align_train.serving.page.drawn import Scored, bars, columns, note
from align_train.serving.page.models import models_field, side_by_side
from align_train.serving.page.picker import picker
from align_train.serving.uploads import Upload

_ALONE = "the label alone"
_OWN = "my own"

_MOST_CLASSES = 10  # of a classifier


def classify_tab(desk: Desk) -> None:
    """Builds the tab, inside the page's blocks.

    Args:
        desk: What it needs.
    """
    with gradio.Row(equal_height=False):
        with gradio.Column(scale=1, min_width=300):
            image = picker("Image", examples=desk.examples, limits=desk.limits)
            labels = texts_field(desk.labels, "Labels")
            prompts = gradio.Dropdown(
                _prompt_choices(),
                value=_ALONE,
                label="Prompts",
                info="Several prompts for each label, averaged, are often better than one.",
                elem_id="prompts",
            )
            own = gradio.Textbox(
                "a photo of a {}\nan image of a {}",
                label="My prompts",
                info="One a line; {} stands for the label.",
                lines=3,
                visible=False,
                elem_id="own-prompts",
            )
            models = models_field(desk.service.names)
        with gradio.Column(scale=2, min_width=300):
            answer = gradio.HTML(_start(), elem_id="classified", apply_default_css=False)

    prompts.change(
        lambda choice: gradio.update(visible=choice == _OWN),
        prompts,
        own,
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
    fields = [image, labels, prompts, own, models]
    answer_by(
        # A text's `input` is for keys alone: a paste would change nothing.
        [image.input, labels.change, prompts.change, own.change, models.change],
        partial(classified, desk),
        fields,
        answer,
    )


def _start() -> str:
    return note("Choose an image, or one of the examples, and its labels are compared here.")


def _prompt_choices() -> list[tuple[str, str]]:
    sets = [(f"{name}: {len(of_set)}", name) for name, of_set in template_sets().items()]
    return [(_ALONE, _ALONE), (_OWN, _OWN), *sets]


def classified(
    desk: Desk, value: object, labels: str, prompts: str, own: str, models: Sequence[str]
) -> str:
    """Answers the tab's question, as HTML.

    Args:
        desk: The service and its limits.
        value: The image, as the field sends it.
        labels: As they were typed.
        prompts: What was chosen: no prompts, one's own, or a set.
        own: One's own prompts, as they were typed.
        models: The names of the models.

    Raises:
        UserError: Something is missing, wrong or too large.
    """
    # The field holds one image. A client can make up a list of more.
    sent = desk.images(value)[:1]
    if not sent:
        return _start()

    asked = desk.texts(labels, "labels")
    templates = desk.texts(own, "my prompts") if prompts == _OWN else _templates(prompts)
    body = partial(_body, desk, image=sent[0].upload, labels=asked, templates=templates)
    return columns(side_by_side(desk.service, models, sent, body))


def _templates(prompts: str) -> str | list[str]:
    """Prompts, or the name of a set."""
    return ["{}"] if prompts == _ALONE else prompts


def _body(
    desk: Desk, name: str, *, image: Upload, labels: list[str], templates: str | list[str]
) -> str:
    """A model's answer."""
    # A classifier has no use for the labels, so it answers even if none are typed.
    classes = desk.service.one(name).classes
    if classes is not None:
        (answer,) = desk.service.classify(name, [image])
        rows = [
            Scored(label, score, None) for label, score in zip(classes, answer.scores, strict=True)
        ]
        return bars("softmax", rows, most=_MOST_CLASSES, reading=_of_classes(classes))

    if not labels:
        return note("Type at least one label.")
    (answer,) = desk.service.classify(name, [image], labels, templates)
    rows = [
        Scored(label, score, cosine)
        for label, score, cosine in zip(labels, answer.scores, answer.cosines, strict=True)
    ]
    return bars(answer.kind, rows)


def _of_classes(classes: Sequence[str]) -> str:
    shown_classes = min(len(classes), _MOST_CLASSES)
    return (
        f"A classifier chooses among its own {len(classes)} classes, whatever the labels say; "
        f"here are the best {shown_classes}."
    )
