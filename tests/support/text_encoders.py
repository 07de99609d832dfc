"""Folders of small text encoders of Hugging Face's: random weights, and a tokenizer of letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoModel,
    BertConfig,
    CLIPTextConfig,
    DistilBertConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    SiglipTextConfig,
    SiglipTextModel,
    XLMRobertaConfig,
)

# Padded, cut and told apart by id, each of these has caught somebody.
TEXTS = [
    "!",
    "<pad>",
    "a <pad> b",
    "ＡＢＣ！ full-width",
    "",
    "x",
    "two green stars",
    "Ein Kätzchen, 猫 and 🐈",
    "a long text " * 6,
]

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.2,
}
_DISTIL: dict[str, Any] = {
    "dim": 32,
    "n_layers": 3,
    "n_heads": 2,
    "hidden_dim": 48,
    "initializer_range": 0.2,
}

# Kind -> its configuration, and ids of padding, begin and end.
_CONFIGS: dict[str, tuple[Any, tuple[int, int, int]]] = {
    "bert": (BertConfig(**_SIZES), (0, 1, 2)),
    "xlm-roberta": (XLMRobertaConfig(**_SIZES, max_position_embeddings=130), (1, 0, 2)),
    "modernbert": (
        ModernBertConfig(
            **{**_SIZES, "initializer_range": 0.5},
            local_attention=8,
            max_position_embeddings=128,
            attention_dropout=0.1,
            mlp_dropout=0.1,
        ),
        (5, 3, 4),
    ),
    "distilbert": (DistilBertConfig(**_DISTIL, max_position_embeddings=128), (0, 1, 2)),
    "clip": (
        CLIPTextConfig(**_SIZES, max_position_embeddings=128, initializer_factor=2.0),
        (4, 3, 4),
    ),
    "siglip": (SiglipTextConfig(**_SIZES, projection_size=40), (1, 1, 1)),
}
KINDS = tuple(_CONFIGS)


def make_encoder(folder: Path, kind: str, *, dropout: float | None = None) -> Any:
    """Writes a small encoder and its tokenizer, and returns the model.

    Args:
        folder: The folder.
        kind: One of `KINDS`.
        dropout: The share that all its layers drop, attention too; None: as that kind has it.
    """
    config, (pad, begin, end) = _CONFIGS[kind]
    tokenizer = letters_tokenizer(pad, begin, end)
    config = type(config)(**config.to_diff_dict())
    config.vocab_size = len(tokenizer)
    config.pad_token_id, config.bos_token_id, config.eos_token_id = pad, begin, end
    if dropout is not None:
        for name in config.to_dict():
            if "dropout" in name and "classif" not in name:
                setattr(config, name, dropout)

    torch.manual_seed(0)
    siglip: Any = SiglipTextModel
    other: Any = AutoModel
    model = siglip(config) if kind == "siglip" else other.from_config(config)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def letters_tokenizer(pad: int, begin: int, end: int) -> Any:
    """A tokenizer, byte by byte: any text has tokens, and each text its own.

    Args:
        pad: The token that pads; it may be the end token, too.
        begin: The token before each text; none if it is the end token.
        end: The token after it.
    """
    special = {pad: "<pad>", begin: "<s>", end: "</s>"}
    letters = sorted(ByteLevel.alphabet())
    vocabulary: dict[str, int] = {}
    for index in range(len(letters) + len(special)):
        token = special[index] if index in special else letters.pop(0)
        vocabulary[token] = index

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(list(special.values()))
    first = f"{special[begin]} " if begin != end else ""
    ends = [(token, index) for index, token in special.items()]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first}$A {special[end]}", special_tokens=ends
    )
    make: Any = PreTrainedTokenizerFast
    return make(
        tokenizer_object=tokenizer,
        pad_token=special[pad],
        eos_token=special[end],
        bos_token=special[begin],
        model_max_length=64,
    )
