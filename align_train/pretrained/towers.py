"""The settings that a tower with weights of its own brings with it.

Pixels of an image tower are normalised and resized as its weights expect it, and a text tower has
the sizes of its weights. A run's config.yaml then says all of it by itself.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from align_train.config.components import find_target
from align_train.config.schema import Node
from align_train.errors import UserError, shown
from align_train.model.base import ImageTower
from align_train.model.bert_config import bert_sizes, read_bert_config
from align_train.model.expected_images import PREPARATION, ExpectedImages
from align_train.model.hugging_face_text import HuggingFaceTextTower
from align_train.model.text_config import (
    attended_length,
    read_text_config,
    usual_pooling,
    with_changes,
)
from align_train.model.text_tower import BertTower
from align_train.model.weights import find
from align_train.pretrained.padding import padding_of
from align_train.pretrained.pretrained import tokenizer_of

# The side before the crop, for a tower that does not say: 256 of 224.
_WHOLE, _CROPPED = 8, 7


def tower_settings(model: Node, data: Node) -> Node:
    """Spells out what a model's towers bring with them.

    Args:
        model: The model's node.
        data: The node of the data, which may lack a tokenizer.

    Returns:
        Settings by key. What the user has given is not among them, but for the sizes of a text
        tower: weights fit no others.

    Raises:
        UserError: There are no such weights, or our transform cannot do what they expect.
    """
    return _of_image_tower(model) | _of_text_tower(model, data)


def _of_image_tower(model: Node) -> Node:
    node = model.get("image_tower")
    if not isinstance(node, dict) or "_target_" not in node:
        return {}
    tower = find_target(node, "model.image_tower")
    if not (inspect.isclass(tower) and issubclass(tower, ImageTower)):
        return {}

    pretrained = bool(node.get("pretrained"))
    keys = ["image_size", "resize_size"]
    if pretrained:
        keys += PREPARATION
    # A key that the model's class does not know is none of ours.
    missing = [key for key in keys if key in model and model[key] is None]
    if not missing:
        return {}

    spelled = ", ".join(f"model.{key}" for key in missing)
    try:
        images = tower.expected_images(node)
    except UserError as error:
        raise UserError(f"{error}; give another tower, or all of {spelled}") from None

    values: Node = _sizes(model, images, pretrained=pretrained)
    if images is not None:
        for key in PREPARATION:
            value = getattr(images, key)
            values[key] = value if isinstance(value, str) else list(value)
    return {f"model.{key}": values[key] for key in missing if key in values}


def _sizes(model: Node, images: ExpectedImages | None, *, pretrained: bool) -> Node:
    image_size = model.get("image_size")
    if image_size is None:
        # timm's own setting of the size that a ViT is built for.
        image_size = (model["image_tower"].get("options") or {}).get("img_size")
    if image_size is None and images is not None:
        image_size = images.image_size
    if not isinstance(image_size, int):
        raise UserError("model.image_size is not set, and its tower does not say; give it")

    resize_size = image_size * _WHOLE // _CROPPED
    if images is not None and pretrained:
        resize_size = images.resize_size_for(image_size)
    return {"image_size": image_size, "resize_size": resize_size}


def _of_text_tower(model: Node, data: Node) -> Node:
    node = model.get("text_tower")
    if not isinstance(node, dict) or "_target_" not in node:
        return {}
    tower = find_target(node, "model.text_tower")
    if not inspect.isclass(tower):
        return {}
    if issubclass(tower, HuggingFaceTextTower):
        return _of_encoder(node, model, data)
    if issubclass(tower, BertTower) and isinstance(node.get("pretrained"), str):
        return _of_bert(node["pretrained"], model, data)
    return {}


def _of_bert(pretrained: str, model: Node, data: Node) -> Node:
    try:
        folder = find(pretrained, wanted="a BERT checkpoint (text_tower.pretrained)")
    except UserError:
        # A new run says so when it builds the tower; one that goes on has no use for the weights.
        return {}
    config = read_bert_config(folder, pretrained)
    settings: Node = {}
    for key, value in bert_sizes(config).items():
        settings[f"model.text_tower.{key}"] = value

    longest = config["max_position_embeddings"]
    if isinstance(model.get("max_tokens"), int) and model["max_tokens"] > longest:
        raise UserError(
            f"model.max_tokens={model['max_tokens']}: text_tower.pretrained={pretrained} knows "
            f"{longest} positions; set model.max_tokens={longest} or less"
        )

    return settings | _of_tokens(folder, pretrained, config["vocab_size"], model, data)


def _of_encoder(node: Node, model: Node, data: Node) -> Node:
    """The configuration of an encoder of Hugging Face's, in full; its tokens."""
    name = node.get("name")
    given = node.get("config") or {}
    if not isinstance(name, str) or "model_type" in given:
        return {}
    try:
        wanted = "a text encoder (model.text_tower.name)"
        folder = find(name, wanted=wanted, weights=bool(node.get("pretrained")))
    except UserError as error:
        # As above: a new run says so when it builds the tower. Without its tokens there is none.
        if data.get("tokenizer") is None and data.get("classes") is None:
            raise UserError(
                f"model.text_tower.name={error}; a run that goes on needs its tokenizer alone: "
                f"give data.tokenizer=outputs/NAME/tokenizer"
            ) from None
        return {}

    config = with_changes(read_text_config(folder, name), given, name)
    if "vocab_size" not in config:
        raise UserError(
            f"model.text_tower.name={name}: {shown(config.get('model_type'))} is no text encoder; "
            f"expected one, e.g. FacebookAI/xlm-roberta-base"
        )
    settings: Node = {"model.text_tower.config": config}
    if node.get("pooling") is None:
        settings["model.text_tower.pooling"] = usual_pooling(config)

    settings |= _of_tokens(folder, name, config["vocab_size"], model, data)
    has_its_tokens = settings.get("data.tokenizer", data.get("tokenizer")) == name
    if attended_length(config) and has_its_tokens and node.get("pad_id") is None:
        # The network sees it: only the tokenizer says which token that is.
        settings["model.text_tower.pad_id"] = padding_of(folder)
    return settings


def _of_tokens(folder: Path, name: str, rows: int, model: Node, data: Node) -> Node:
    """The tokenizer that lies beside weights, and the size of its vocabulary.

    Args:
        folder: Of the weights.
        name: As the user named it.
        rows: How many tokens the weights know.
        model: The model's node.
        data: The data's.
    """
    settings: Node = {}
    tokenizer = data.get("tokenizer")
    has_own = tokenizer_of(folder)[0] is not None
    if tokenizer is None and data.get("classes") is None and has_own:
        tokenizer = settings["data.tokenizer"] = name
    if tokenizer == name and model.get("vocabulary_size") is None:
        # A checkpoint may have a few rows more than its tokenizer has tokens.
        settings["model.vocabulary_size"] = rows
    return settings
