"""Layer decay and rates of parts: what a step changes, divided by the gradient, is the rate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from align_train.commands.groups import spell_groups
from align_train.errors import UserError
from align_train.model import BertTower, Classifier, DualEncoder, Temperature, TimmTower
from align_train.model.base import ImageTower
from tests.support.optimizers import PLAIN_SGD
from tests.support.parity import small_model

SGD = replace(PLAIN_SGD, momentum=0.0, weight_decay=0.0, layer_decay=0.5)

BERT: dict[str, Any] = {"hidden": 8, "layers": 3, "heads": 2, "intermediate": 8}


def dual(image_tower: ImageTower) -> DualEncoder:
    return DualEncoder(
        image_tower=image_tower,
        text_tower=lambda **given: BertTower(**given, **BERT),
        temperature=Temperature(initial=0.1),
        vocabulary_size=50,
        image_size=16,
        resize_size=16,
    )


def vit() -> TimmTower:
    options = {
        "img_size": 16,
        "patch_size": 8,
        "embed_dim": 12,
        "depth": 2,
        "num_heads": 2,
        "reg_tokens": 4,
    }
    return TimmTower(name="vit_tiny_patch16_224", projection=6, options=options)


class Bare(ImageTower):
    """A tower of a user's own, without blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = 6
        self.project = nn.Conv2d(3, 6, 8, stride=8)


@torch.no_grad()
def rates(recipe: Any, model: nn.Module) -> dict[str, float]:
    """What one step changes, divided by the gradient; exact, since weights begin at zero."""
    for parameter in model.parameters():
        parameter.zero_()
        parameter.grad = torch.full_like(parameter, 3.0)
    recipe.build(model).step()
    found = {}
    for name, parameter in model.named_parameters():
        (rate,) = set((-parameter / 3.0).flatten().tolist())
        found[name] = rate
    return found


def depth_of_text(name: str) -> int:
    if "encoder.layer." in name:
        return 3 - int(name.split("encoder.layer.")[1].split(".")[0])
    return 4 if "embeddings" in name else 0


def depth_of_vit(name: str) -> int:
    if ".blocks." in name:
        return 2 - int(name.split(".blocks.")[1].split(".")[0])
    return 0 if ".norm." in name or "projection" in name else 3


def depth_of_efficient_net(name: str) -> int:
    # Three blocks: one in the first stage, two in the second.
    number = {"blocks.0.0": 3, "blocks.1.0": 2, "blocks.1.1": 1}
    return next((depth for block, depth in number.items() if block in name), 4)


def test_the_rate_of_each_block_is_halved_exactly_from_the_top_of_both_towers() -> None:
    found = rates(SGD, dual(vit()))
    assert {"image_tower.network.reg_token", "image_tower.network.pos_embed"} < found.keys()
    for name, rate in found.items():
        of_image = name.startswith("image_tower.")
        depth = depth_of_vit(name) if of_image else depth_of_text(name)
        assert rate == 0.5**depth, name

    for name, rate in rates(SGD, small_model()).items():
        if name.startswith("image_tower."):
            assert rate == 0.5 ** depth_of_efficient_net(name), name


def test_parts_have_their_own_rates_and_the_depth_counts_in_each() -> None:
    own = replace(SGD, image_lr=2.0, text_lr=4.0, projection_lr=8.0, temperature_lr=16.0)
    for name, rate in rates(own, dual(vit())).items():
        if "projection" in name:
            assert rate == 8.0
        elif "temperature" in name:
            assert rate == 16.0
        elif name.startswith("image_tower."):
            assert rate == 2.0 * 0.5 ** depth_of_vit(name)
        else:
            assert rate == 4.0 * 0.5 ** depth_of_text(name)


def test_a_classifier_and_a_tower_without_blocks_work() -> None:
    found = rates(replace(SGD, head_lr=7.0), Classifier(image_tower=vit(), classes=5))
    assert found["head.weight"] == 7.0
    assert found["image_tower.network.blocks.0.attn.qkv.weight"] == 0.25

    bare = rates(SGD, dual(Bare()))
    assert bare["image_tower.project.weight"] == 1.0
    assert bare["text_tower.network.encoder.layer.0.output.dense.weight"] == 0.125


def test_a_rate_that_nobody_would_read_is_refused() -> None:
    with pytest.raises(UserError, match=r"optimizer\.head_lr=1\.0: this model has no trained"):
        replace(SGD, head_lr=1.0).build(dual(vit()))
    with pytest.raises(UserError, match=r"layer_decay=0\.5: no trained tower has blocks"):
        SGD.build(Classifier(image_tower=Bare(), classes=5))
    with pytest.raises(ValueError, match=r"layer_decay=2: expected a factor in \(0, 1\]"):
        replace(SGD, layer_decay=2)


def test_the_summary_counts_every_number_once() -> None:
    model = small_model(lock="image")
    lines = spell_groups(replace(SGD, projection_lr=0.25), model)
    counted = [int(line.split(" numbers")[0].split()[-1].replace(",", "")) for line in lines]
    assert sum(counted) == sum(parameter.numel() for parameter in model.parameters())
    assert lines[0].startswith("text tower, 1 from the top: lr 0.5, weight decay 0, 2,048 numbers")
    assert lines[-1].startswith("locked: ")

    class Forgets:
        def build(self, model: nn.Module) -> torch.optim.Optimizer:
            weights: list[Tensor] = [next(model.parameters())]
            return torch.optim.SGD(weights)

    assert spell_groups(Forgets(), small_model())[1].startswith("in no group")
