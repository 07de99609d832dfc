"""Our model's settings in the words of Hugging Face's `AlignConfig`, and back.

A *node* is what `conf/model/*.yaml` says of a `DualEncoder`: nested settings with `_target_`. This
module only maps names and numbers; it builds and reads nothing. It refuses what the other side
cannot express with a `UserError` that names the setting.
"""

from __future__ import annotations

import inspect
from typing import Any

from timm.models._efficientnet_builder import round_channels

from align_train.errors import UserError
from align_train.model.dual_encoder import DualEncoder, Temperature
from align_train.model.image_tower import EfficientNetTower
from align_train.model.settings import Settings
from align_train.model.text_tower import BertTower

_ACTIVATIONS = {"silu": "swish", "relu": "relu"}  # ours -> theirs

# Channels of the stem before scaling. AlignConfig has no setting for it.
_STEM = 32

# Channels of EfficientNet's head before scaling. AlignModel pools over windows of that side, which
# must exceed the feature map of any image.
_HEAD = 1280

# AlignConfig's settings that our towers have no counterpart of, with the only value they stand for.
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

# Ours -> theirs, for values that are the same on both sides.
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
    """A model that Hugging Face's ALIGN cannot express."""


def to_config(node: Settings) -> dict[str, Any]:
    """The arguments of `AlignConfig` for a model.

    Args:
        node: The model's node, with its `vocabulary_size` set.

    Raises:
        Inexpressible: Hugging Face's ALIGN has no such model.
    """
    image, text = _towers(node)

    vision: dict[str, object] = dict(_FIXED["vision_config"])
    vision |= {theirs: image[ours] for ours, theirs in _VISION.items()}
    vision |= {
        "in_channels": [_STEM, *image["channels"][:-1]],
        "hidden_act": _ACTIVATIONS[image["activation"]],
        "hidden_dim": _channels(_HEAD, image["width"]),
        "image_size": node["image_size"],
        # Theirs is the share that is kept, as in TensorFlow; torch's is the share that is new.
        "batch_norm_momentum": round(1 - image["momentum"], 6),
    }

    attention_dropout = text["attention_dropout"]
    if attention_dropout is None:
        attention_dropout = text["dropout"]
    words: dict[str, object] = dict(_FIXED["text_config"])
    words |= {theirs: text[ours] for ours, theirs in _TEXT.items()}
    words |= {
        "attention_probs_dropout_prob": attention_dropout,
        "vocab_size": node["vocabulary_size"],
    }

    temperature = _with_defaults(node["temperature"], Temperature)
    return {
        "vision_config": vision,
        "text_config": words,
        "projection_dim": _channels(image["channels"][-1], image["width"]),
        "temperature_init_value": float(temperature["initial"]),
    }


def _towers(node: Settings) -> tuple[Settings, Settings]:
    """The image tower's and the text tower's settings, complete; `Inexpressible` if they differ."""
    theirs = "Hugging Face's ALIGN"
    if "text_tower" not in node:
        raise Inexpressible(f"{theirs} has no {_class(node)}")

    kinds = {"image": EfficientNetTower, "text": BertTower}
    for name, kind in kinds.items():
        tower = _class(node[f"{name}_tower"])
        if tower != kind.__name__:
            raise Inexpressible(
                f"{theirs} has no {tower}: its {name} tower is always {kind.__name__}"
            )

    image = _with_defaults(node["image_tower"], EfficientNetTower)
    text = _with_defaults(node["text_tower"], BertTower)
    if image["projection"] is not None:
        raise Inexpressible(
            f"{theirs} has no linear layer on the image side "
            f"(image_tower.projection={image['projection']})"
        )
    if image["stem"] != _STEM:
        raise Inexpressible(
            f"{theirs} always has a stem of {_STEM} channels (image_tower.stem={image['stem']})"
        )
    if node.get("bias") is not None:
        raise Inexpressible(f"{theirs} has no bias of the logits (loss=sigmoid)")
    return image, text


def from_config(config: Settings, *, sizes: Settings) -> dict[str, object]:
    """The node of a model that `AlignConfig` describes.

    Args:
        config: `AlignConfig.to_dict()`.
        sizes: `max_tokens` and the settings of its images, `image_size` and so on.

    Raises:
        UserError: Our towers cannot be that model.
    """
    _check_config(config)
    vision = config["vision_config"]
    text = config["text_config"]

    image = {ours: vision[theirs] for ours, theirs in _VISION.items()}
    words = {ours: text[theirs] for ours, theirs in _TEXT.items()}
    return {
        "_target_": _path(DualEncoder),
        "image_tower": {
            "_target_": _path(EfficientNetTower),
            **image,
            "activation": _activation(vision),
            "momentum": round(1 - vision["batch_norm_momentum"], 6),
        },
        "text_tower": {
            "_target_": _path(BertTower),
            "_partial_": True,
            **words,
            "attention_dropout": text["attention_probs_dropout_prob"],
            "pooler": True,
        },
        # The weights bring the temperature's value. The lower bound is ours.
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


def _check_config(config: Settings) -> None:
    if config.get("model_type") != "align":
        raise UserError(
            f"model_type is {config.get('model_type')!r}; expected Hugging Face's ALIGN, 'align'"
        )

    # The weights could fit all the same, and would give other embeddings.
    for part, fixed in _FIXED.items():
        for name, value in fixed.items():
            if config[part][name] != value:
                raise UserError(
                    f"{part}.{name} is {config[part][name]}; our towers can only be {value} there"
                )

    vision = config["vision_config"]
    activation = _activation(vision)
    if activation not in _ACTIVATIONS:
        choices = ", ".join(_ACTIVATIONS.values())
        raise UserError(f"vision_config.hidden_act is {activation}; our towers know {choices}")
    if list(vision["in_channels"]) != [_STEM, *vision["out_channels"][:-1]]:
        raise UserError(
            f"vision_config.in_channels is {vision['in_channels']}; "
            f"expected {_STEM} and out_channels but the last"
        )

    width = _channels(vision["out_channels"][-1], vision["width_coefficient"])
    if config["projection_dim"] != width:
        raise UserError(
            f"projection_dim is {config['projection_dim']}, but the image tower is {width} wide"
        )


def _activation(vision: Settings) -> str:
    """Our name of the activation. Hugging Face takes `silu` and `swish` for the same."""
    theirs = str(vision["hidden_act"])
    ours = {theirs: ours for ours, theirs in _ACTIVATIONS.items()}
    return ours.get(theirs, theirs)


def _channels(channels: int, width: float) -> int:
    """Channels after scaling, rounded as EfficientNet rounds them."""
    return int(round_channels(channels, multiplier=width))  # type: ignore[no-untyped-call]


def _class(node: Settings) -> str:
    return str(node["_target_"]).rpartition(".")[2]


def _path(kind: type) -> str:
    return f"align_train.model.{kind.__name__}"


def _with_defaults(node: Settings, kind: type) -> Settings:
    """The node with the defaults of its constructor filled in."""
    parameters = inspect.signature(kind).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters}
    return defaults | dict(node)
