"""Our model in the words of Hugging Face's ALIGN: how it is configured, and what its tensors are called there; both ways.

A *node* is what `conf/model/*.yaml` says of a `DualEncoder`: nested settings with `_target_`. Everything here is names and
numbers; nothing is built or read. What one side cannot express is refused with a `UserError` that names it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from timm.models._efficientnet_builder import round_channels

from align_train.errors import UserError
from align_train.model.dual_encoder import DualEncoder, Temperature
from align_train.model.image_tower import EfficientNetTower
from align_train.model.text_tower import BertTower

_ACTIVATIONS = {"silu": "swish", "relu": "relu"}  # ours -> theirs


_STEM = 32  # channels before scaling; theirs has no setting for it


_HEAD = 1280  # EfficientNet's head before scaling: theirs pools over windows of that side, which must exceed any picture's map


# Settings of theirs that our towers have no counterpart of, and the only value that they can stand for.
_FIXED = {
    "vision_config": {
        "num_channels": 3,
        "depth_divisor": 8,
        "depthwise_padding": [],
        "squeeze_expansion_ratio": 0.25,
        "pooling_type": "mean",
        "batch_norm_eps": 1e-3,
    },
    "text_config": {
        "hidden_act": "gelu",
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    },
}


# Ours -> theirs, where one number stands for the other.
_VISION = {
    "width": "width_coefficient",
    "depth": "depth_coefficient",
    "channels": "out_channels",
    "kernels": "kernel_sizes",
    "strides": "strides",
    "repeats": "num_block_repeats",
    "expansions": "expand_ratios",
    "drop_path": "drop_connect_rate",
}


_TEXT = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "positions": "max_position_embeddings",
    "dropout": "hidden_dropout_prob",
    "initializer_range": "initializer_range",
}


class Inexpressible(UserError):
    """A model that Hugging Face's ALIGN has no words for."""


def to_config(node: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `AlignConfig` for a node whose vocabulary_size is set; `Inexpressible` where there are none."""
    if "text_tower" not in node:
        raise Inexpressible(f"Hugging Face's ALIGN has no {_class(node)}")
    image, text = node["image_tower"], node["text_tower"]
    for name, tower, known in (("image", image, EfficientNetTower), ("text", text, BertTower)):
        if _class(tower) != known.__name__:
            raise Inexpressible(
                f"Hugging Face's ALIGN has no {_class(tower)}: its {name} tower is always a {known.__name__}"
            )
    image, text = _with_defaults(image, EfficientNetTower), _with_defaults(text, BertTower)
    if image["projection"] is not None:
        raise Inexpressible(
            f"Hugging Face's ALIGN has no linear layer on the image side (image_tower.projection={image['projection']})"
        )
    if image["stem"] != _STEM:
        raise Inexpressible(
            f"Hugging Face's ALIGN has a stem of {_STEM} channels always (image_tower.stem={image['stem']})"
        )
    if node.get("bias") is not None:
        raise Inexpressible("Hugging Face's ALIGN has no bias of the logits (loss=sigmoid)")
    vision = {
        **_FIXED["vision_config"],
        **{theirs: image[ours] for ours, theirs in _VISION.items()},
        "in_channels": [_STEM, *image["channels"][:-1]],
        "hidden_act": _ACTIVATIONS[image["activation"]],
        "hidden_dim": _channels(_HEAD, image["width"]),
        "image_size": node["image_size"],
        "batch_norm_momentum": round(
            1 - image["momentum"], 6
        ),  # theirs counts what is kept, as TensorFlow does
    }
    attention = text["dropout"] if text["attention_dropout"] is None else text["attention_dropout"]
    words = {
        **_FIXED["text_config"],
        **{theirs: text[ours] for ours, theirs in _TEXT.items()},
        "attention_probs_dropout_prob": attention,
        "vocab_size": node["vocabulary_size"],
    }
    return {
        "vision_config": vision,
        "text_config": words,
        "projection_dim": _channels(image["channels"][-1], image["width"]),
        "temperature_init_value": float(
            _with_defaults(node["temperature"], Temperature)["initial"]
        ),
    }


def from_config(config: Mapping[str, Any], *, sizes: Mapping[str, int]) -> dict[str, Any]:
    """The node for `AlignConfig.to_dict()`. sizes: `image_size`, `resize_size`, `max_tokens` of its processor."""
    if config.get("model_type") != "align":
        raise UserError(
            f"model_type is {config.get('model_type')!r}; expected Hugging Face's ALIGN, 'align'"
        )
    vision, text = config["vision_config"], config["text_config"]
    for part, fixed in _FIXED.items():
        for name, value in fixed.items():
            if config[part][name] != value:
                raise UserError(
                    f"{part}.{name} is {config[part][name]}; our towers can only be {value} there"
                )
    activation = {theirs: ours for ours, theirs in _ACTIVATIONS.items()}.get(
        vision["hidden_act"], vision["hidden_act"]
    )
    if activation not in _ACTIVATIONS:  # theirs also calls it silu
        raise UserError(
            f"vision_config.hidden_act is {activation}; our towers know {', '.join(_ACTIVATIONS.values())}"
        )
    if list(vision["in_channels"]) != [_STEM, *vision["out_channels"][:-1]]:
        raise UserError(
            f"vision_config.in_channels is {vision['in_channels']}; expected {_STEM} and out_channels but the last"
        )
    image = {ours: vision[theirs] for ours, theirs in _VISION.items()}
    width = _channels(vision["out_channels"][-1], vision["width_coefficient"])
    if config["projection_dim"] != width:
        raise UserError(
            f"projection_dim is {config['projection_dim']}, but the image tower is {width} wide"
        )
    words = {ours: text[theirs] for ours, theirs in _TEXT.items()}
    return {
        "_target_": _path(DualEncoder),
        "image_tower": {
            "_target_": _path(EfficientNetTower),
            **image,
            "activation": activation,
            "momentum": round(1 - vision["batch_norm_momentum"], 6),
        },
        "text_tower": {
            "_target_": _path(BertTower),
            "_partial_": True,
            **words,
            "attention_dropout": text["attention_probs_dropout_prob"],
            "pooler": True,
        },
        # It sets in at the weights' value; the bounds are ours.
        "temperature": {
            "_target_": _path(Temperature),
            "initial": config["temperature_init_value"],
            "minimum": 0.001,
        },
        "bias": None,
        "vocabulary_size": text["vocab_size"],
        **sizes,
        "lock": None,
    }


# Ours -> theirs. Blocks whose expansion is 1 are timm's DepthwiseSeparableConv, all others its InvertedResidual.
_OUTSIDE_BLOCKS = (
    (r"image_tower\.network\.conv_stem\.", "vision_model.embeddings.convolution."),
    (r"image_tower\.network\.bn1\.", "vision_model.embeddings.batchnorm."),
    (r"text_tower\.network\.", "text_model."),
    (r"text_tower\.pooler\.", "text_model.pooler.dense."),
    (r"text_tower\.projection\.", "text_projection."),
    (r"temperature\.value", "temperature"),
)


_SEPARABLE = {
    "conv_dw": "depthwise_conv.depthwise_conv",
    "bn1": "depthwise_conv.depthwise_norm",
    "se.conv_reduce": "squeeze_excite.reduce",
    "se.conv_expand": "squeeze_excite.expand",
    "conv_pw": "projection.project_conv",
    "bn2": "projection.project_bn",
}


_INVERTED = {
    "conv_pw": "expansion.expand_conv",
    "bn1": "expansion.expand_bn",
    "conv_dw": "depthwise_conv.depthwise_conv",
    "bn2": "depthwise_conv.depthwise_norm",
    "se.conv_reduce": "squeeze_excite.reduce",
    "se.conv_expand": "squeeze_excite.expand",
    "conv_pwl": "projection.project_conv",
    "bn3": "projection.project_bn",
}


_BLOCK = re.compile(r"image_tower\.network\.(blocks\.(\d+)\.(\d+))\.(.*)\.(\w+)")


def tensor_names(ours: Iterable[str]) -> dict[str, str]:
    """The names of a `DualEncoder`'s tensors (its state dict's keys) -> `AlignModel`'s."""
    names = list(ours)
    found = [match for name in names if (match := _BLOCK.fullmatch(name))]
    numbers = {
        block: number
        for number, block in enumerate(sorted({(int(match[2]), int(match[3])) for match in found}))
    }
    inverted = {match[1] for match in found if match[4] == "conv_pwl"}
    renamed = {}
    for name in names:
        if match := _BLOCK.fullmatch(name):
            block, layer, leaf = match[1], match[4], match[5]
            layer = (_INVERTED if block in inverted else _SEPARABLE)[layer]
            renamed[name] = (
                f"vision_model.encoder.blocks.{numbers[int(match[2]), int(match[3])]}.{layer}.{leaf}"
            )
            continue
        theirs = name
        for pattern, replacement in _OUTSIDE_BLOCKS:
            theirs = re.sub(f"^{pattern}", replacement, theirs)
        renamed[name] = theirs
    return renamed


def _channels(number: int, width: float) -> int:
    return int(round_channels(number, multiplier=width))  # type: ignore[no-untyped-call]


def _class(node: Mapping[str, Any]) -> str:
    return str(node["_target_"]).rpartition(".")[2]


def _path(kind: type) -> str:
    return f"align_train.model.{kind.__name__}"


def _with_defaults(node: Mapping[str, Any], kind: type) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters} | dict(node)
