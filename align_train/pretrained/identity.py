"""Finds out what the embeddings of a trained model depend on: an `Identity`.

Price: one pass over the weights, and four inputs through the towers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from align_train.config.schema import Node
from align_train.index.identity import Identity
from align_train.model.expected_images import PREPARATION
from align_train.pretrained.load import TrainedClassifier, TrainedModel

_DIGITS = 16  # hexadecimal ones of a hash: enough to tell any two models apart
# Hugging Face's layer that no forward pass reads; an export has it and the run has not.
_UNREAD = "text_tower.pooler."

_PLACES = 6  # of a number in JSON

# Squares of colours, of other sides than any model's: they are squashed and cropped.
_SQUARES = 7
_PROBE_SIDES = (131, 97)

_PROBE_IDS = ((1, 2, 3, 4, 5, 6, 7, 8), (8, 6, 4, 2, 1, -1, -1, -1))  # -1 is padding


@torch.inference_mode()
def identity_of(model: TrainedModel) -> Identity:
    """Finds out what the embeddings of a model depend on.

    Args:
        model: The model, on any device.

    Raises:
        UserError: The model's folder does not say how images are prepared.
    """
    views = model.views
    max_tokens = model.node.get("max_tokens")
    probes = torch.cat(embedded_probes(model)).double().cpu()

    return Identity(
        weights=weights_digest(model.model),
        tokenizer=model.tokenizer_digest,
        image_size=views.image_size,
        resize_size=views.resize_size,
        max_tokens=max_tokens,
        settings=dict(_settings(model.node)),
        probes=_rounded(probes),
    )


def unread(name: str) -> bool:
    """Whether no forward pass reads a tensor of that name."""
    return name.startswith(_UNREAD)


@torch.inference_mode()
def embedded_probes(model: TrainedModel | TrainedClassifier) -> list[Tensor]:
    """Embeds a few images and texts that are always the same.

    Args:
        model: The model, on any device. A classifier has no texts.

    Returns:
        `[inputs, dim]` of images, and of texts.
    """
    images = model.encode_images(_probe_images())
    if isinstance(model, TrainedClassifier):
        return [images]

    ids = torch.tensor(_PROBE_IDS)[:, : model.node.get("max_tokens")].to(model.device)
    # A tower of a user's own may be any module.
    end_id = getattr(model.model.text_tower, "end_id", None)
    if end_id is not None:
        ids[0, -1] = end_id
    return [images, model.encode_text(ids)]


def weights_digest(model: nn.Module) -> str:
    """Hashes the weights of a model: equal for equal ones.

    Args:
        model: The model, on any device.
    """
    hash_of_all = hashlib.sha256()
    # Sorted: two ways of building a model may name the same tensors in another order.
    for name, value in sorted(model.state_dict().items()):
        if unread(name):
            continue
        hash_of_all.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        hash_of_all.update(value.detach().cpu().contiguous().numpy().tobytes())
    return hash_of_all.hexdigest()[:_DIGITS]


def _probe_images() -> list[Image.Image]:
    numbers = np.random.default_rng(0)
    images = []
    for _ in range(2):
        colours = numbers.integers(0, 256, (_SQUARES, _SQUARES, 3), dtype=np.uint8)
        images.append(Image.fromarray(colours).resize(_PROBE_SIDES, Image.Resampling.NEAREST))
    return images


def _rounded(probes: Tensor) -> list[list[float]]:
    rows: list[list[float]] = probes.numpy().round(_PLACES).tolist()
    return rows


def _settings(node: Node) -> Iterator[tuple[str, str]]:
    """The settings of both towers, and of images, by dotted key, as texts."""
    for key in PREPARATION:
        yield f"model.{key}", str(node.get(key))
    for tower in ("image_tower", "text_tower"):
        yield from _flat(node.get(tower), f"model.{tower}")


def _flat(node: object, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _flat(value, f"{key}.{name}")
    else:
        yield key, str(node)
