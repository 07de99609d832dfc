"""Small towers of Hugging Face's and timm's, with dropout everywhere, for the parity table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from align_train.model import HuggingFaceTextTower, TimmTower
from align_train.model.clip import ClipImageTower, ClipTextTower, SiglipImageTower

# One layer each: the key biases, whose true gradient is zero, must stay few.
_SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
_IMAGES: dict[str, Any] = {**_SHAPE, "image_size": 16, "patch_size": 8, "attention_dropout": 0.3}
_BERT = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3}

_ENCODERS: dict[str, dict[str, Any]] = {
    "xlm-roberta": {**_SHAPE, **_BERT, "max_position_embeddings": 20, "pad_token_id": 1},
    "modernbert": {
        **_SHAPE,
        "num_hidden_layers": 3,  # of which one looks far
        "local_attention": 6,
        "max_position_embeddings": 64,
        "attention_dropout": 0.3,
        "mlp_dropout": 0.2,
        "embedding_dropout": 0.2,
    },
    "siglip_text_model": {
        **_SHAPE,
        "attention_dropout": 0.3,
        "projection_size": 16,
        "max_position_embeddings": 16,
    },
}
_CLIP_TEXT = {
    **_SHAPE,
    "attention_dropout": 0.3,
    "max_position_embeddings": 16,
    "eos_token_id": 49,
    "bos_token_id": 48,
    "pad_token_id": 0,
}


def named_towers(kind: str) -> dict[str, Any]:
    """The arguments of a `DualEncoder` that make its towers.

    Args:
        kind: A `model_type` of an encoder beside the small EfficientNet; `clip`, `siglip`: both
            towers; `dino`: a ViT with registers beside BERT.
    """
    if kind == "clip":
        return {
            "image_tower": ClipImageTower(dim=12, config=_IMAGES),
            "text_tower": lambda **given: ClipTextTower(**given, config=_CLIP_TEXT),
        }
    if kind == "siglip":
        return {
            "image_tower": SiglipImageTower(config=_IMAGES),
            "text_tower": _encoder("siglip_text_model", projection=False),
        }
    if kind == "dino":
        options = {
            "img_size": 16,
            "patch_size": 8,
            "embed_dim": 16,
            "depth": 2,
            "num_heads": 2,
            "drop_path_rate": 0.3,
        }
        tower = TimmTower(name="vit_small_patch14_reg4_dinov2", options=options)
        return {"image_tower": tower}
    return {"text_tower": _encoder(kind)}


def _encoder(kind: str, **options: Any) -> Callable[..., HuggingFaceTextTower]:
    config = {"model_type": kind, "vocab_size": 50, **_ENCODERS[kind]}
    return lambda **given: HuggingFaceTextTower(**given, config=config, **options)
