"""DINO's image towers of timm: odd sizes, registers, weights of a file, and LiT with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from align_train.commands.spelled_out import explicit
from align_train.config.components import build
from align_train.config.compose import compose_training
from align_train.model import DualEncoder
from align_train.training.forward import Towers
from tests.support.parity import small_batch

# 14 and 16 pixels a patch; positions as a table, and as rotations.
NAMES = ("vit_small_patch14_reg4_dinov2", "vit_small_patch14_dinov2", "vit_small_patch16_dinov3")
SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 2}


@pytest.mark.parametrize("name", NAMES)
def test_features_are_timms_and_it_is_trained_in_part_or_not_at_all(
    name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    make: Any = timm.create_model
    theirs = make(name, **SMALL).eval()
    tensors = {key: value.contiguous() for key, value in theirs.state_dict().items()}
    # As in files of the makers: a token that only their own training reads.
    save_file({**tensors, "mask_token": torch.zeros(1, 48)}, tmp_path / "dino.safetensors")

    patch = 14 if "14" in name else 16
    side = 7 * patch  # of another size than in training
    options = {**SMALL, "dynamic_img_size": "true"}
    settings = compose_training(
        "model=timm_base",
        f"model.image_tower.name={name}",
        f"model.image_tower.pretrained={tmp_path}/dino.safetensors",
        *(f"+model.image_tower.options.{key}={value}" for key, value in options.items()),
        "model.image_tower.projection=null",
        f"model.image_size={side}",
        "model.text_tower.hidden=16",
        "model.text_tower.layers=1",
        "model.text_tower.heads=2",
        "model.text_tower.intermediate=32",
        "model.vocabulary_size=50",
        fill_in=explicit,
    )
    # A file does not say how its makers prepared images: see test_towers.py for timm's own.
    assert settings.model["image_size"] == side

    expected = _features(name, tensors, _images(side))
    for lock in (None, "image"):
        model: Any = build(settings.model | {"lock": lock}).eval()
        assert len(model.image_tower.blocks) == 2 and model.dim == 48
        with torch.no_grad():
            found = model.image_tower(_images(side))
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
        assert _trained(model.train(), side) == (lock is None)


def _images(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def _features(name: str, tensors: dict[str, Tensor], images: Tensor) -> Tensor:
    make: Any = timm.create_model
    network = make(name, num_classes=0, dynamic_img_size=True, **SMALL).eval()
    network.load_state_dict(tensors)
    features: Tensor = network(images)
    return features


def _trained(model: DualEncoder, side: int) -> bool:
    """Whether a step without norm groups gives the image tower gradients: to all of it, or none."""
    batch = small_batch(2)
    pixels = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8)
    towers = Towers(model, seed=0, norm_group=None)
    images, texts = towers.embed(replace(batch, images=pixels), chunk_size=1, recompute=True)
    torch.autograd.backward((images @ texts.T).square().sum())

    got = {value.grad is not None for value in model.image_tower.parameters()}
    assert len(got) == 1 and all(value.grad is not None for value in model.text_tower.parameters())
    return got.pop()
