"""Hugging Face's CLIP in the words of our model: its settings, and the names of its tensors.

SigLIP's tensors have the same names; `siglip.py` has its settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from align_train.errors import UserError, shown
from align_train.model.settings import Settings

# Tensors beyond those of a model of ours: rows of integers that older versions saved.
LEFT_OVER = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")

# The settings that the forward pass of either tower reads, of SigLIP's too. The vocabulary's size
# is a setting of ours.
TOWER_SETTINGS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
)
# Only the end token is looked for; transformers warns of the others' defaults if they are left out.
_SPECIAL = ("eos_token_id", "bos_token_id", "pad_token_id")
_IMAGE_SETTINGS = (*TOWER_SETTINGS, "num_channels", "image_size", "patch_size")
_TEXT_SETTINGS = (*TOWER_SETTINGS, "max_position_embeddings", *_SPECIAL)

_TEMPERATURE = "temperature"
_LOGIT_SCALE = "logit_scale"
_BIAS = "logit_bias"

# Ours -> theirs.
_NAMES = (
    (r"image_tower\.network\.", "vision_model."),
    (r"image_tower\.projection\.", "visual_projection."),
    (r"text_tower\.network\.", "text_model."),
    (r"text_tower\.projection\.", "text_projection."),
    (r"temperature\.value", _TEMPERATURE),
    (r"bias\.value", _BIAS),  # SigLIP's
)


def clip_node(config: Settings, *, sizes: Settings) -> dict[str, object]:
    """The node of a model that `CLIPConfig` describes.

    Args:
        config: `CLIPConfig.to_dict()`.
        sizes: `max_tokens` and the settings of its images, `image_size` and so on.

    Raises:
        UserError: The end token, whose state is a text's, is not one number; or texts may be longer
            than there are positions.
    """
    text = config["text_config"]
    if not isinstance(text["eos_token_id"], int):
        raise UserError(
            f"text_config.eos_token_id is {shown(text['eos_token_id'])}; expected one token"
        )
    if sizes["max_tokens"] > text["max_position_embeddings"]:
        raise UserError(
            f"text_config.max_position_embeddings is {text['max_position_embeddings']}, but "
            f"tokenizer_config.json says model_max_length {sizes['max_tokens']}; mend the latter"
        )
    return {
        "_target_": "align_train.model.DualEncoder",
        "image_tower": {
            "_target_": "align_train.model.clip.ClipImageTower",
            "dim": config["projection_dim"],
            "config": {name: config["vision_config"][name] for name in _IMAGE_SETTINGS},
        },
        "text_tower": {
            "_target_": "align_train.model.clip.ClipTextTower",
            "_partial_": True,
            "config": {name: text[name] for name in _TEXT_SETTINGS},
        },
        # The weights bring the temperature's value. The lower bound is ours.
        "temperature": {"_target_": "align_train.model.Temperature", "minimum": 0.001},
        "bias": None,
        "vocabulary_size": text["vocab_size"],
        **sizes,
        "lock": None,
    }


def clip_tensor_names(ours: Iterable[str]) -> dict[str, str]:
    """Maps the names of a `DualEncoder`'s tensors to those of `CLIPModel`."""
    renamed = {}
    for name in ours:
        theirs = name
        for pattern, replacement in _NAMES:
            theirs = re.sub(f"^{pattern}", replacement, theirs)
        renamed[name] = theirs
    return renamed


def with_temperature(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a `CLIPModel`, with ALIGN's temperature in place of the logits' scale.

    CLIP's logits are cosine · exp(logit_scale), ALIGN's are cosine / temperature.
    """
    tensors = dict(tensors)
    if _LOGIT_SCALE in tensors:
        tensors[_TEMPERATURE] = (-tensors.pop(_LOGIT_SCALE).float()).exp()
    return tensors
