"""Folders as Hugging Face's ALIGN leaves them, with weights that tell pictures apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AlignConfig, AlignModel, AlignProcessor, EfficientNetImageProcessor

from align_train.stream.text import TextEncoder

BASE: dict[str, Any] = {}  # align-base: AlignConfig's defaults, 289 pixels, 640 wide
# The same in small: odd widths and depths, an expansion of 1 in the middle, repeats of one block.
SMALL: dict[str, Any] = {
    "vision_config": {
        "width_coefficient": 0.5,
        "depth_coefficient": 1.2,
        "in_channels": [32, 16, 24, 40],
        "out_channels": [16, 24, 40, 80],
        "kernel_sizes": [3, 5, 3, 5],
        "strides": [1, 2, 2, 2],
        "num_block_repeats": [1, 2, 1, 2],
        "expand_ratios": [1, 6, 1, 4],
    },
    "text_config": {
        "vocab_size": 300,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
    },
    "projection_dim": 40,
}


def lively(config: dict[str, Any]) -> Any:
    """An AlignModel that tells pictures apart; a fresh one embeds all alike, which would hide every error."""
    torch.manual_seed(0)
    fresh: Any = AlignModel
    model = fresh(AlignConfig(**config))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.running_var):
                assert isinstance(value, Tensor)
                nn.init.uniform_(value, 0.5, 1.5)
            for value in (module.bias, module.running_mean):
                assert isinstance(value, Tensor)
                nn.init.normal_(value, std=0.2)
            assert module.num_batches_tracked is not None
            module.num_batches_tracked.fill_(7)
    model.temperature.data.fill_(0.07)
    return model.eval()


def folder_of(model: Any, folder: Path, tokenizer: Path, *, resize: int, crop: int) -> Path:
    model.save_pretrained(folder)
    kind: Any = AlignProcessor
    words = TextEncoder(str(tokenizer), max_tokens=64).hugging_face()
    kind(image_processor(resize, crop), words).save_pretrained(folder)
    return folder


def image_processor(resize: int, crop: int) -> Any:
    return EfficientNetImageProcessor(
        size={"height": resize, "width": resize},
        crop_size={"height": crop, "width": crop},
        do_center_crop=True,
        resample=2,
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        do_normalize=False,
        include_top=False,
    )
