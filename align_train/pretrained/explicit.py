from __future__ import annotations

import copy
from typing import Any

from omegaconf import OmegaConf, open_dict

from align_train.errors import UserError
from align_train.pretrained.open import open_pretrained
from align_train.pretrained.pretrained import Pretrained, is_classifier, without_pretrained


def with_pretrained(config: Any) -> Any:
    """The configuration of `model=huggingface` or `model=classifier` made explicit: the model, or the image tower, that lies
    at `model.path`, under what else `model` says; its weights as `initial_weights`; its tokenizer where `data` names none. Any
    other is returned as it is."""
    if "path" not in config.model:
        return config
    path = str(config.model.path)
    found = open_pretrained(path)
    changes = {
        key: value for key, value in config.model.items() if key != "path" and value is not None
    }
    explicit = copy.deepcopy(config)
    classifier = is_classifier(config.model)
    if found.is_classifier and not classifier:
        raise UserError(
            f"model.path={path}: a classifier, which has no text tower; take model=classifier"
        )
    node = without_pretrained(found.node)
    if classifier:
        node = {key: node[key] for key in ("image_tower", "image_size", "resize_size")} | {
            "classes": None,
            "lock": None,
        }
    with open_dict(explicit):
        explicit.model = OmegaConf.merge(OmegaConf.create(node), changes)
        explicit.initial_weights = path
        if not classifier and explicit.data.get("tokenizer") is None:
            explicit.data.tokenizer = _told(found, "tokenizer", "data.tokenizer=…")
    if explicit.model.image_size is None:
        _told(found, "preprocess", "model.image_size=… and model.resize_size=…")
    return explicit


def _told(found: Pretrained, what: str, fix: str) -> str:
    if what in found.missing:
        raise UserError(f"{found.missing[what]}; give {fix}")
    assert found.tokenizer is not None
    return found.tokenizer
