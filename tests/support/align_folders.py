"""Folders as Hugging Face's ALIGN leaves them, with weights that tell pictures apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AlignConfig, AlignModel, AlignProcessor, EfficientNetImageProcessor

from align_train.stream.tokenizer import Tokenizer

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


def distinct_images(number: int, size: int) -> Tensor:
    """Float `[number, 3, size, size]` in [-1, 1]: a tint each, and more and more noise."""
    generator = torch.Generator().manual_seed(1)
    levels = (torch.rand(number, 3, 1, 1, generator=generator) * 2 - 1).sign()
    noise = torch.rand(number, 3, size, size, generator=generator) * 2 - 1
    share = torch.linspace(0.05, 0.95, number)[:, None, None, None]
    return ((1 - share) * levels + share * noise).contiguous()


@torch.no_grad()
def lively(config: dict[str, Any]) -> Any:
    """An AlignModel that separates images; a fresh one embeds all alike, which would hide errors.

    As in a trained network, BatchNorm's statistics are near those of the activations, and blocks
    add less than they pass on. Otherwise 55 blocks amplify the rounding of float32 by 1e7. (In
    float64 the embeddings agree all the same.)
    """
    torch.manual_seed(0)
    fresh: Any = AlignModel
    model = fresh(AlignConfig(**config))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.05)
    for name, module in model.named_modules():
        if name.endswith("project_bn"):  # what a block adds is less than what it passes on
            module.weight.mul_(0.5)
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model.train().vision_model(pixel_values=distinct_images(12, 192))
    for norm, momentum in zip(norms, before, strict=True):
        assert (
            norm.running_mean is not None
            and norm.running_var is not None
            and norm.num_batches_tracked is not None
        )
        norm.momentum = momentum
        norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.7, 1.4))
        norm.running_var.add_(
            norm.running_var.mean(), alpha=0.01
        )  # channels that hardly vary would be blown up
        norm.running_mean.add_(
            norm.running_var.sqrt() * torch.randn_like(norm.running_mean), alpha=0.1
        )
        norm.num_batches_tracked.fill_(7)
    model.temperature.data.fill_(0.07)
    return model.eval()


def folder_of(model: Any, folder: Path, tokenizer: Path, *, resize: int, crop: int) -> Path:
    model.save_pretrained(folder)
    kind: Any = AlignProcessor
    words = Tokenizer(str(tokenizer), max_tokens=64).hugging_face()
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
