"""The field for images: from files, examples, the clipboard or the camera.

Gradio's own fields upload each image into a folder, from which it serves it to whoever knows its
name (CVE-2023-51449), and which only grows (gradio#4620, #9766). Here an image stays in the page
and travels with each question, as text. The server keeps no file: none to guard, none to delete.

Price: a third more bytes a question, and an image travels again with the next question.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from align_train.errors import UserError, shown
from align_train.serving.limits import Limits

if TYPE_CHECKING:
    import gradio

# Bytes of a question that are left to its texts.
_BESIDE_IMAGES = 100_000

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Example:
    """An image that is offered.

    Attributes:
        name: What is on it.
        data: The image as a data URL.
    """

    name: str
    data: str


@dataclass(frozen=True)
class Sent:
    """An image as it came from the page.

    Attributes:
        name: Its file's name, for messages.
        data: The file as a data URL, which nobody has read yet.
    """

    name: str
    data: str


def picker(
    label: str,
    *,
    examples: Sequence[Example],
    limits: Limits,
    max_images: int = 1,
) -> gradio.HTML:
    """Makes the field. It triggers `input`, and its value is read by `sent_images`.

    Args:
        label: Its heading.
        examples: Images to choose from.
        limits: Of a request, which has to hold all images.
        max_images: How many may be chosen.
    """
    import gradio

    template = (_HERE / "picker.html").read_text(encoding="utf-8")
    field: gradio.HTML = gradio.HTML(
        value=[],
        label=label,
        show_label=False,
        html_template=template.replace("@label", label),
        js_on_load=(_HERE / "picker.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        examples=[asdict(each) for each in examples],
        multiple=max_images > 1,
        max_images=max_images,
        max_characters=limits.max_bytes - _BESIDE_IMAGES,
    )
    return field


def jpeg_url(jpeg: bytes) -> str:
    """An image for the page: a URL that holds it, so that no request is made for it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def image_url(image: Image.Image) -> str:
    """As `jpeg_url`, of an open image."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=90)
    return jpeg_url(file.getvalue())


def sent_images(value: object) -> list[Sent]:
    """Reads a field's value, which any client may have made up.

    Args:
        value: A list with the name and the data URL of each image.

    Raises:
        UserError: The value has another form.
    """
    if not isinstance(value, list):
        raise UserError("images: expected a list, as the page sends it")
    return [_sent(item) for item in value]


def _sent(item: object) -> Sent:
    name = item.get("name") if isinstance(item, dict) else None
    data = item.get("data") if isinstance(item, dict) else None
    if not isinstance(name, str) or not isinstance(data, str):
        raise UserError("images: expected the name and the data of each, as the page sends them")
    # The name stands in errors: `shown` bounds its length and makes control characters harmless.
    return Sent(shown(name), data)
