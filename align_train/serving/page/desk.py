"""What the three tabs share: the service, its limits, and how a question becomes an answer.

A person's mistake becomes one line on the page. An error of ours becomes one line, too, and its
stack trace goes to the server's log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps

import gradio

from align_train.errors import UserError, shown
from align_train.serving.limits import Limits
from align_train.serving.page.drawn import message
from align_train.serving.page.picker import Example, sent_images
from align_train.serving.service import Service
from align_train.serving.uploads import Upload

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Named:
    """An image that was sent.

    Attributes:
        name: Its file's, for messages.
        upload: The file, which nobody has opened yet.
    """

    name: str
    upload: Upload


@dataclass(frozen=True)
class Desk:
    """What a tab needs.

    Attributes:
        service: Answers.
        limits: Of a question, as for the HTTP interface.
        examples: Images to choose from.
        labels: Labels that fit the examples.
    """

    service: Service
    limits: Limits
    examples: Sequence[Example]
    labels: Sequence[str]

    def images(self, value: object) -> list[Named]:
        """Reads the images of a field.

        Args:
            value: As `sent_images` takes it.

        Raises:
            UserError: There are too many, or one is no data URL; says which.
        """
        sent = sent_images(value)
        if len(sent) > self.limits.max_images:
            raise UserError(f"images: {len(sent)}; at most {self.limits.max_images}")
        return [Named(each.name, self.limits.image(each.data, each.name)) for each in sent]

    def texts(self, typed: object, of: str) -> list[str]:
        """Reads the texts of a field, see `listed`.

        Args:
            typed: What was typed.
            of: What they are, for errors.

        Raises:
            UserError: There are too many, or one is too long; says which.
        """
        return self.limits.texts(listed(typed), of)


@contextmanager
def naming_files(images: Sequence[Named]) -> Iterator[None]:
    """Names the file in an error of the block that begins with an index, `images[3]: …`."""
    try:
        yield
    except UserError as error:
        # The service knows images by their places; a person knows the names of their files.
        for index, image in enumerate(images):
            if str(error).startswith(f"images[{index}]:"):
                raise UserError(str(error).replace(f"images[{index}]", image.name, 1)) from None
        raise


def answering(answer: Callable[..., str]) -> Callable[..., str]:
    """Makes an answer that may fail one that says in a line what is wrong."""

    @wraps(answer)
    def always(*values: object) -> str:
        try:
            return answer(*values)
        except UserError as error:
            return message(str(error))
        except Exception:
            _log.exception("the page could not answer")
            return message("The server failed at this; its log says why.")

    return always


def answer_by(
    events: Sequence[object],
    answer: Callable[..., str],
    fields: Sequence[object],
    output: gradio.HTML,
) -> None:
    """Makes a tab answer: at each event, of which the last one counts.

    Args:
        events: Of the fields.
        answer: From the fields' values to HTML; its errors become lines of the page.
        fields: In the order of `answer`'s parameters.
        output: Shows the answer.
    """
    gradio.on(
        events,
        answering(answer),
        fields,
        output,
        # Gradio's queue answers by other routes, which `open_routes.py` keeps closed.
        queue=False,
        trigger_mode="always_last",
        show_progress="minimal",
        api_visibility="private",
    )


def texts_field(texts: Sequence[str], label: str) -> gradio.Textbox:
    """Makes the field whose texts `Desk.texts` reads.

    Args:
        texts: To begin with.
        label: Of the field; in small letters its id.
    """
    return gradio.Textbox(
        "\n".join(texts),
        label=label,
        info="One a line, or a single line with commas.",
        lines=6,
        max_lines=12,
        elem_id=label.lower(),
    )


def listed(text: object) -> list[str]:
    """The entries of a field: one a line; or, of a single line, between its commas.

    Args:
        text: What was typed.

    Returns:
        Each once, in their order, without the empty ones.

    Raises:
        UserError: It is no text.
    """
    if not isinstance(text, str):
        raise UserError(f"labels: {shown(text)}; expected a text")
    lines = text.strip().splitlines()
    entries = lines if len(lines) > 1 else text.split(",")
    stripped = [entry.strip() for entry in entries]
    return list(dict.fromkeys(entry for entry in stripped if entry))
