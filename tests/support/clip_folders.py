"""Folders of Hugging Face's CLIP and SigLIP: random weights, and a tokenizer of single letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from tests.support.text_encoders import letters_tokenizer

POSITIONS = 77

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def make_clip(folder: Path, *, legacy_end: bool = False, dropout: float = 0.0) -> Any:
    """Writes model, tokenizer and image processor, and returns the model.

    Args:
        folder: The folder.
        legacy_end: The end token's number is wrong, as in all configurations of before July 2023:
            the token with the highest number then counts as the end.
        dropout: Of attention, in both towers.
    """
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    end = vocabulary["<|endoftext|>"]

    make_tokenizer: Any = CLIPTokenizer
    make_tokenizer(vocab=vocabulary, merges=[], model_max_length=POSITIONS).save_pretrained(folder)
    make_processor: Any = CLIPImageProcessor
    make_processor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)

    torch.manual_seed(0)
    make_config: Any = CLIPConfig
    make_model: Any = CLIPModel
    text = {
        "vocab_size": len(words),
        "eos_token_id": 2 if legacy_end else end,
        "bos_token_id": end - 1,
        "max_position_embeddings": POSITIONS,
    }
    model = make_model(
        make_config(
            text_config={**_SIZES, **text, "attention_dropout": dropout},
            vision_config={
                **_SIZES,
                "image_size": 32,
                "patch_size": 8,
                "attention_dropout": dropout,
            },
            projection_dim=24,
            initializer_factor=5.0,
        )
    ).eval()
    model.save_pretrained(folder)
    return model


def make_siglip(folder: Path, *, dropout: float = 0.0) -> Any:
    """Writes model, tokenizer and image processor, and returns the model.

    Args:
        folder: The folder.
        dropout: Of attention, in both towers.
    """
    tokenizer = letters_tokenizer(pad=1, begin=1, end=1)
    tokenizer.save_pretrained(folder)
    make_processor: Any = SiglipImageProcessor
    make_processor(size={"height": 32, "width": 32}).save_pretrained(folder)

    torch.manual_seed(0)
    make_config: Any = SiglipConfig
    make_model: Any = SiglipModel
    text = {"vocab_size": len(tokenizer), "projection_size": _SIZES["hidden_size"]}
    sizes = {**_SIZES, "attention_dropout": dropout}
    model = make_model(
        make_config(
            text_config={**sizes, **text},
            vision_config={**sizes, "image_size": 32, "patch_size": 8},
        )
    ).eval()
    with torch.no_grad():
        model.logit_scale.fill_(2.3)
        model.logit_bias.fill_(-3.0)
    model.save_pretrained(folder)
    return model
