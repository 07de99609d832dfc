"""Hugging Face's SigLIP, of a fixed resolution, in the words of our model."""

from __future__ import annotations

from align_train.errors import UserError
from align_train.model.settings import Settings
from align_train.model.text_config import attended_length
from align_train.pretrained.clip import TOWER_SETTINGS

_IMAGE_SETTINGS = (*TOWER_SETTINGS, "num_channels", "image_size", "patch_size")
_TEXT_SETTINGS = (
    "model_type",
    "vocab_size",
    *TOWER_SETTINGS,
    "max_position_embeddings",
    "projection_size",
)


def siglip_node(config: Settings, *, sizes: Settings, pad_id: int | None) -> dict[str, object]:
    """The node of a model that `SiglipConfig` describes.

    Args:
        config: `SiglipConfig.to_dict()`.
        sizes: `max_tokens` and the settings of its images, `image_size` and so on.
        pad_id: The token that its tokenizer pads with, which the text tower sees; None: that is
            not known, and the tower cannot be asked for texts.

    Raises:
        UserError: The towers do not share a space, or texts may be longer than there are positions.
    """
    vision = config["vision_config"]
    text = config["text_config"]
    # Neither tower has a linear layer of ours, so their widths must agree by themselves.
    if text["projection_size"] != vision["hidden_size"] or not vision.get("vision_use_head", True):
        raise UserError(
            f"text_config.projection_size is {text['projection_size']}, the image tower's width "
            f"{vision['hidden_size']}, vision_use_head {vision.get('vision_use_head', True)}; "
            f"expected equal ones, and true"
        )
    longest = attended_length(text)
    if longest is None or sizes["max_tokens"] > longest:
        raise UserError(
            f"text_config.max_position_embeddings is {longest}, but tokenizer_config.json says "
            f"model_max_length {sizes['max_tokens']}; mend the latter"
        )
    return {
        "_target_": "align_train.model.DualEncoder",
        "image_tower": {
            "_target_": "align_train.model.clip.SiglipImageTower",
            "config": {name: vision[name] for name in _IMAGE_SETTINGS},
        },
        "text_tower": {
            "_target_": "align_train.model.HuggingFaceTextTower",
            "_partial_": True,
            "config": {name: text[name] for name in _TEXT_SETTINGS},
            "pooling": "pooler",
            "pad_id": pad_id,
            "pad_to": longest,
            "projection": False,
        },
        # The weights bring both values. The lower bound is ours.
        "temperature": {"_target_": "align_train.model.Temperature", "minimum": 0.001},
        "bias": {"_target_": "align_train.model.Bias"},
        "vocabulary_size": text["vocab_size"],
        **sizes,
        "lock": None,
    }
