"""A folder of Hugging Face's ALIGN: its model, tokenizer and the sizes of its images.

The folder's files are read as JSON and checked. A setting that our towers or our image transform
cannot honour is an error; nothing is approximated.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AlignConfig

from align_train.errors import UserError, one_line
from align_train.pretrained.align_config import from_config
from align_train.pretrained.pretrained import Pretrained, tokenizer_of

# What their image processor must say for its images to be ours: squash, crop the centre,
# x / 127.5 - 1.
_TRANSFORM = {
    "do_resize": True,
    "resample": 2,  # bilinear
    "do_rescale": True,
    "rescale_offset": True,
    "do_normalize": False,
    "include_top": False,
}

# Tokens. AlignProcessor's own limit if its tokenizer has BERT's limit (512) or none.
_LONGEST_TEXT = 64


def open_hugging_face(folder: Path) -> Pretrained:
    """Reads a folder that `AlignModel.save_pretrained` or `align_train.export` wrote.

    A tokenizer or processor may be missing; `Pretrained.missing` says so.

    Raises:
        UserError: It is no model of ALIGN, or not one that our towers can be.
    """
    file = folder / "config.json"
    config = _align_config(file)
    tokenizer, missing = tokenizer_of(folder)

    try:
        sizes: dict[str, Any] = _sizes(folder)
    except UserError as error:
        sizes = {"image_size": None, "resize_size": None}
        missing = missing | {"preprocess": str(error)}

    try:
        node = from_config(config, sizes={**sizes, "max_tokens": _max_tokens(folder)})
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return Pretrained(folder, "hugging_face", node, tokenizer, missing)


def _align_config(file: Path) -> dict[str, Any]:
    content = _json(file)
    if content.get("model_type") != "align":
        raise UserError(
            f"{file}: model_type is {content.get('model_type')!r}; "
            f"expected Hugging Face's ALIGN, 'align'"
        )

    try:
        config: dict[str, Any] = AlignConfig(**content).to_dict()
    # huggingface_hub's strict dataclasses raise errors of their own, and odd values lead to others.
    except Exception as error:
        reason = one_line(error, 160)
        raise UserError(
            f"{file}: not a configuration of ALIGN ({type(error).__name__}: {reason})"
        ) from None
    return config


def _sizes(folder: Path) -> dict[str, int]:
    """The squares that images are squashed to and cropped to.

    Raises:
        UserError: The processor's files are missing, or it does something else.
    """
    file, settings = _image_processor(folder)

    try:
        for name, wanted in _TRANSFORM.items():
            if settings.get(name, wanted) != wanted:
                raise UserError(
                    f"{file}: {name} is {settings[name]}; our transform can only be {wanted} there"
                )
        if abs(settings["rescale_factor"] * 127.5 - 1) > 1e-3:
            raise UserError(
                f"{file}: rescale_factor is {settings['rescale_factor']}; "
                f"our transform can only be 1 / 127.5 there"
            )

        resize = _side(settings["size"])
        crop = _side(settings["crop_size"]) if settings.get("do_center_crop") else resize
        return {"image_size": crop, "resize_size": resize}
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{file}: size and crop_size are not squares, or are missing; "
            f"expected equal height and width"
        ) from None


def _image_processor(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file that says how images are prepared, and what it says."""
    nested = folder / "processor_config.json"
    if nested.is_file():
        settings = _json(nested).get("image_processor")
        if settings:
            return nested, settings

    plain = folder / "preprocessor_config.json"
    if not plain.is_file():
        raise UserError(
            f"{folder}: no preprocessor_config.json (or processor_config.json): "
            f"the size of the images is unknown; add the file of the model's processor"
        )
    return plain, _json(plain)


def _side(size: dict[str, Any]) -> int:
    height = size["height"]
    width = size["width"]
    if height != width:
        raise ValueError("not a square")
    return int(height)


def _max_tokens(folder: Path) -> int:
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return _LONGEST_TEXT

    limit = _json(file).get("model_max_length")
    if isinstance(limit, int) and 3 <= limit < 512:
        return limit
    return _LONGEST_TEXT


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: cannot be read as JSON ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected settings, found a {type(content).__name__}")
    return content
