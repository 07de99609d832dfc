"""A trained model's towers as ONNX files, with all that a program without torch needs beside them.

Each tower is traced by torch.export, with free axes for the batch, the length of texts and the size
of images, and compared with the model by onnxruntime: traced values may have become constants. If
the tower itself takes one size only, or its file is wrong at another, that axis is fixed, and
onnxruntime refuses images of other sizes.

Price: the weights twice in memory, some ten seconds a tower, and a pass over a few inputs. Files of
more than 2 GB, which ONNX cannot hold, keep their weights in `*.onnx.data`.
"""

from __future__ import annotations

import json
from pathlib import Path

from align_train.commands.onnx_towers import (
    IMAGES,
    TEXTS,
    OnnxTower,
    export_images,
    export_texts,
)
from align_train.commands.write_model import image_processor, tokenizer_in
from align_train.errors import UserError
from align_train.model.trainable import TrainableModel, checked_normalisation
from align_train.pretrained.card import card
from align_train.pretrained.pretrained import Pretrained
from align_train.stream.classes import ClassList

ABOUT = "onnx_model.json"
"""The file that says how the towers are used."""


def write_onnx(
    to: Path,
    pretrained: Pretrained,
    model: TrainableModel,
    *,
    name: str,
    licence: str | None = None,
) -> str:
    """Writes the towers, tokenizer, image processor, classes and card.

    Args:
        to: A folder that is there.
        pretrained: Where the model comes from.
        model: The model with its weights, on the CPU. It is made float32.
        name: The folder's name in the end, or the one on the hub.
        licence: As the card names it; None: not at all.

    Returns:
        What was written, in words.

    Raises:
        UserError: The model has no tokenizer or says nothing of its images; a tower cannot be
            traced; or its file gives other numbers than the model.
    """
    # Whoever has only these files cannot find out how texts and images are prepared.
    for reason in pretrained.missing.values():
        raise UserError(f"format=onnx: {reason}")

    # In training mode dropout and moving statistics would become part of the graph.
    model = model.float().eval()
    towers = [export_images(model, pretrained.node["image_size"], to)]
    if not pretrained.is_classifier:
        towers.append(export_texts(model, pretrained.node, to))

    about = _about(pretrained, model, towers[0])
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    (to / ABOUT).write_text(text, encoding="utf-8")
    images = image_processor(pretrained)
    # None only if the image size is missing, which is refused above.
    assert images is not None
    images.save_pretrained(to)
    if pretrained.tokenizer is not None:
        tokenizer_in(pretrained).save(to)
    if pretrained.classes is not None:
        ClassList(pretrained.classes).save(to)
    text = card(pretrained, name, reader="onnxruntime", licence=licence)
    (to / "README.md").write_text(text, encoding="utf-8")

    return ", ".join(tower.spelled for tower in towers)


def _about(pretrained: Pretrained, model: TrainableModel, images: OnnxTower) -> dict[str, object]:
    """What `onnx_model.json` says."""
    node = pretrained.node
    about: dict[str, object] = {
        "kind": "classifier" if pretrained.is_classifier else "dual_encoder",
        "images": {"file": IMAGES, "any_size": images.any_size, **_preparation(pretrained)},
    }
    if pretrained.is_classifier:
        # The classes' probabilities.
        return about | {"scores": "softmax"}

    temperature, *bias = [value.item() for value in model.logit_parameters()]
    about["texts"] = {"file": TEXTS, "max_tokens": node["max_tokens"]}
    about["temperature"] = temperature
    about["bias"] = bias[0] if bias else None
    # Trained with a bias, each pair has a probability of its own; else texts share 1.
    return about | {"scores": "sigmoid" if bias else "softmax"}


def _preparation(pretrained: Pretrained) -> dict[str, object]:
    """How images become `pixel_values`."""
    views = pretrained.views()
    mean, std = checked_normalisation(
        pretrained.node.get("image_mean"), pretrained.node.get("image_std")
    )
    return {
        "image_size": views.image_size,
        "resize_size": views.resize_size,
        "resize": views.resize,
        "interpolation": views.interpolation,
        "mean": list(mean or (0.5, 0.5, 0.5)),
        "std": list(std or (0.5, 0.5, 0.5)),
    }
