"""`model=huggingface` and `model=classifier`: settings that begin with a trained model, in full.

The run's config.yaml then says by itself how the model is built.
"""

from __future__ import annotations

from align_train.config.schema import Node
from align_train.errors import UserError, naming
from align_train.model.expected_images import PREPARATION
from align_train.pretrained.open import open_pretrained
from align_train.pretrained.pretrained import Pretrained, is_classifier, without_pretrained


def explicit_settings(model: Node, data: Node) -> Node:
    """Spells out the model that lies at `model.path`.

    Args:
        model: The node with `path`. Its other values take the place of the trained model's.
        data: The node of the data, which may lack a tokenizer.

    Returns:
        Settings by key: the whole node of `model`, or of a classifier with that model's image
        tower; `initial_weights`; `data.tokenizer` if the data names none.

    Raises:
        UserError: There is no model at the path, or it lacks what must then be given.
    """
    path = str(model["path"])
    with naming("model.path", path):
        pretrained = open_pretrained(path)
    classifier = is_classifier(model)
    if pretrained.is_classifier and not classifier:
        raise UserError(
            f"model.path={path}: a classifier, which has no text tower; take model=classifier"
        )

    node = without_pretrained(pretrained.node)
    if classifier:
        # The linear layer is a new one: the data says how many classes it has.
        keys = ("image_tower", "image_size", "resize_size", *PREPARATION)
        kept = {key: node[key] for key in keys if key in node}
        node = {**kept, "classes": None, "lock": None}

    # Null means "as in the trained model": conf/model lists the keys that way.
    given = {key: value for key, value in model.items() if key != "path" and value is not None}
    if "image_size" in given and "resize_size" not in given and node["image_size"]:
        # The crop stays the same part of the image.
        given["resize_size"] = round(given["image_size"] * node["resize_size"] / node["image_size"])
    node = _merged(node, given)

    settings: Node = {"model": node, "initial_weights": path}
    if not classifier and data.get("tokenizer") is None:
        _refuse_missing(pretrained, "tokenizer", "data.tokenizer=…")
        settings["data.tokenizer"] = pretrained.tokenizer
    # After the merge: a size that the folder does not say may have been given.
    if node["image_size"] is None:
        _refuse_missing(pretrained, "preprocess", "model.image_size=… and model.resize_size=…")
    return settings


def _merged(node: Node, changes: Node) -> Node:
    """A node with other values, at any depth."""
    merged = dict(node)
    for key, value in changes.items():
        inner = merged.get(key)
        if isinstance(inner, dict) and isinstance(value, dict):
            value = _merged(inner, value)
        merged[key] = value
    return merged


def _refuse_missing(pretrained: Pretrained, part: str, fix: str) -> None:
    if part in pretrained.missing:
        raise UserError(f"{pretrained.missing[part]}; give {fix}")
