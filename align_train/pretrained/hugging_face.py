"""A folder of Hugging Face's ALIGN, CLIP or SigLIP: model, tokenizer, the sizes of its images.

The folder's files are read as JSON and checked. A setting that our towers or our image transform
cannot honour is an error; nothing is approximated.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from transformers import AlignConfig, CLIPConfig, PreTrainedConfig, SiglipConfig

from align_train.errors import UserError, one_line, shown
from align_train.model.expected_images import of_processor
from align_train.model.settings import Settings
from align_train.pretrained.align_config import from_config
from align_train.pretrained.clip import clip_node
from align_train.pretrained.padding import padding_of
from align_train.pretrained.pretrained import Pretrained, tokenizer_of
from align_train.pretrained.siglip import siglip_node

# Tokens. AlignProcessor's own limit if its tokenizer has BERT's limit (512) or none.
_LONGEST_TEXT = 64
_NO_LIMIT = 512

_CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "align": AlignConfig,
    "clip": CLIPConfig,
    "siglip": SiglipConfig,
}


def open_hugging_face(folder: Path) -> Pretrained:
    """Reads a folder that `save_pretrained` of a model, or `align_train.export`, wrote.

    A tokenizer or processor may be missing; `Pretrained.missing` says so.

    Raises:
        UserError: It is no model of ALIGN, CLIP or SigLIP, or not one that our towers can be.
    """
    file = folder / "config.json"
    kind, config = _config(file)
    tokenizer, missing = tokenizer_of(folder)

    # Texts can do without a processor, so the error waits until an image comes.
    try:
        images = _images(folder)
    except UserError as error:
        images = {"image_size": None, "resize_size": None}
        missing = missing | {"preprocess": str(error)}

    try:
        node = _node(kind, config, folder, images, has_tokenizer=tokenizer is not None)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None

    family: Literal["align", "clip"] = "align" if kind == "align" else "clip"
    return Pretrained(folder, "hugging_face", node, tokenizer, missing, family=family)


def _node(
    kind: str,
    config: Settings,
    folder: Path,
    images: dict[str, object],
    *,
    has_tokenizer: bool,
) -> dict[str, object]:
    if kind == "align":
        return from_config(config, sizes={**images, "max_tokens": _max_tokens(folder)})

    longest = config["text_config"]["max_position_embeddings"]
    sizes = {**images, "max_tokens": _max_tokens(folder, longest)}
    if kind == "clip":
        return clip_node(config, sizes=sizes)
    pad_id = padding_of(folder) if has_tokenizer else None
    return siglip_node(config, sizes=sizes, pad_id=pad_id)


def _config(file: Path) -> tuple[str, Settings]:
    """The type of a model, and its configuration with all defaults."""
    content = _json(file)
    kind = str(content.get("model_type"))
    if kind not in _CONFIGS:
        raise UserError(
            f"{file}: model_type is {shown(kind)!r}; expected Hugging Face's ALIGN, CLIP or "
            f"SigLIP, {' or '.join(map(repr, _CONFIGS))}"
        )

    try:
        config: Settings = _CONFIGS[kind](**content).to_dict()
    # huggingface_hub's strict dataclasses raise errors of their own, and odd values lead to others.
    except Exception as error:
        reason = one_line(error, 160)
        raise UserError(
            f"{file}: not a configuration of {kind.upper()} ({type(error).__name__}: {reason})"
        ) from None
    return kind, config


def _images(folder: Path) -> dict[str, object]:
    """The settings of a model that say how its images are prepared.

    Raises:
        UserError: The processor's files are missing, or it does something that we cannot.
    """
    file, settings = _image_processor(folder)
    images = of_processor(settings, str(file))
    values = asdict(images)
    # ALIGN's own are null, as in a model of ours.
    if images.resize == "squash":
        values["resize"] = None
    if images.interpolation == "bilinear":
        values["interpolation"] = None
    if {*images.image_mean, *images.image_std} == {0.5}:
        values["image_mean"] = values["image_std"] = None
    return values


def _image_processor(folder: Path) -> tuple[Path, Settings]:
    """The file that says how images are prepared, and what it says."""
    # Newer versions of transformers write the image processor into the file of the whole one.
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


def _max_tokens(folder: Path, longest: int = _LONGEST_TEXT) -> int:
    """The tokens at which a model's texts are cut. longest: if its tokenizer does not say."""
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return longest

    limit = _json(file).get("model_max_length")
    # Below 3 there is no room for a word between the first token and the end token.
    if isinstance(limit, int) and 3 <= limit < _NO_LIMIT:
        return limit
    return longest


def _json(file: Path) -> Settings:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: cannot be read as JSON ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected settings, found a {type(content).__name__}")
    return content
