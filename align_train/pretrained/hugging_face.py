from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AlignConfig

from align_train.errors import UserError
from align_train.pretrained.align_names import from_config
from align_train.pretrained.pretrained import Pretrained, tokenizer_of

# What their image processor must say for its pictures to be ours: squash, crop the centre, x / 127.5 - 1.
_TRANSFORM = {
    "do_resize": True,
    "resample": 2,
    "do_rescale": True,
    "rescale_offset": True,
    "do_normalize": False,
    "include_top": False,
}


_LONGEST_TEXT = (
    64  # tokens; AlignProcessor's own limit where its tokenizer has BERT's (512) or none
)


def open_hugging_face(folder: Path) -> Pretrained:
    file = folder / "config.json"
    content = _json(file)
    if content.get("model_type") != "align":
        raise UserError(
            f"{file}: model_type is {content.get('model_type')!r}; expected Hugging Face's ALIGN, 'align'"
        )
    try:
        config = AlignConfig(**content).to_dict()
    except (
        Exception
    ) as error:  # of huggingface_hub's strict dataclasses, and whatever odd values lead to
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{file}: not a configuration of ALIGN ({type(error).__name__}: {reason})"
        ) from None
    tokenizer, missing = tokenizer_of(folder)
    try:
        sizes: dict[str, Any] = _sizes(folder)
    except UserError as error:
        sizes, missing = (
            {"image_size": None, "resize_size": None},
            missing | {"preprocess": str(error)},
        )
    try:
        node = from_config(config, sizes={**sizes, "max_tokens": _max_tokens(folder)})
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return Pretrained(folder, "hugging_face", node, tokenizer, missing)


def _sizes(folder: Path) -> dict[str, int]:
    """The squares that pictures are squashed to and cropped to; UserError where the processor does something else."""
    nested, plain = folder / "processor_config.json", folder / "preprocessor_config.json"
    settings: Any = _json(nested).get("image_processor") if nested.is_file() else None
    file = nested if settings else plain
    if not settings:
        if not plain.is_file():
            raise UserError(
                f"{folder}: no preprocessor_config.json (or processor_config.json): how pictures are cut is not known"
            )
        settings = _json(plain)
    try:
        for name, wanted in _TRANSFORM.items():
            if settings.get(name, wanted) != wanted:
                raise UserError(
                    f"{file}: {name} is {settings[name]}; our transform can only be {wanted} there"
                )
        if abs(settings["rescale_factor"] * 127.5 - 1) > 1e-3:
            raise UserError(
                f"{file}: rescale_factor is {settings['rescale_factor']}; our transform can only be 1 / 127.5 there"
            )
        sides = {
            name: {settings[name]["height"], settings[name]["width"]}
            for name in ("size", "crop_size")
        }
        if not settings.get("do_center_crop"):
            sides["crop_size"] = sides["size"]
        (resize,), (crop,) = sides["size"], sides["crop_size"]
        return {"image_size": int(crop), "resize_size": int(resize)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: size and crop_size are no squares, or not there") from None


def _max_tokens(folder: Path) -> int:
    file = folder / "tokenizer_config.json"
    limit = _json(file).get("model_max_length") if file.is_file() else None
    return limit if isinstance(limit, int) and 3 <= limit < 512 else _LONGEST_TEXT


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected settings, found a {type(content).__name__}")
    return content
