"""The models that answer side by side, and how the page names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gradio

from align_train.errors import UserError, shown
from align_train.serving.page.desk import Named, naming_files
from align_train.serving.page.drawn import column
from align_train.serving.service import Service


def models_field(names: Sequence[str]) -> gradio.CheckboxGroup:
    """Makes the field that chooses models, which one model alone does not need.

    Args:
        names: The models'.
    """
    return gradio.CheckboxGroup(
        list(names),
        value=list(names),
        label="Models",
        info="They answer side by side.",
        visible=len(names) > 1,
        elem_classes="models",
    )


def side_by_side(
    service: Service, ticked: object, sent: Sequence[Named], body: Callable[[str], str]
) -> list[str]:
    """Asks the chosen models, one after the other: a column of HTML each.

    Args:
        service: Has the models.
        ticked: What the field says.
        sent: The images of the question, for errors.
        body: From a model's name to its answer.

    Raises:
        UserError: No model is chosen, or one cannot answer.
    """
    answers = []
    for name in chosen(service.names, ticked):
        with naming_files(sent):
            answers.append(column(name, kind_of(service, name), body(name)))
    return answers


def chosen(names: Sequence[str], ticked: object) -> list[str]:
    """The models that are to answer, in their order.

    Args:
        names: All models'.
        ticked: What the field says.

    Raises:
        UserError: None is chosen.
    """
    if not isinstance(ticked, list):
        raise UserError(f"models: {shown(ticked)}; expected a list of names")
    # From the server's names, not from the client's: a made-up name is passed over.
    answering = [name for name in names if name in ticked]
    if not answering:
        raise UserError("Choose at least one model.")
    return answering


def kind_of(service: Service, name: str) -> str:
    """Says what a model is, e.g. `dual encoder, 1.2 M parameters, 48 px`.

    Args:
        service: Has the model.
        name: The model's.
    """
    served = service.one(name)
    model = served.model
    kind = "classifier" if served.is_classifier else "dual encoder"
    count = sum(parameter.numel() for parameter in model.parameters())
    return f"{kind}, {count / 1e6:.1f} M parameters, {model.views.image_size} px"
