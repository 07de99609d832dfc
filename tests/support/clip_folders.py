"""A folder of Hugging Face's CLIP with random weights, and a tokenizer of single letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

POSITIONS = 77

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def make_clip(folder: Path, *, legacy_end: bool = False) -> Any:
    """Writes model, tokenizer and image processor, and returns the model.

    Args:
        folder: The folder.
        legacy_end: The end token's number is wrong, as in all configurations of before July 2023:
            the token with the highest number then counts as the end.
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
            text_config={**_SIZES, **text},
            vision_config={**_SIZES, "image_size": 32, "patch_size": 8},
            projection_dim=24,
            initializer_factor=5.0,
        )
    ).eval()
    model.save_pretrained(folder)
    return model
