"""Locks by depth: below the last blocks there are no gradients, and statistics do not move."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from align_train.config.lock import check_lock, check_lock_under
from align_train.errors import UserError
from align_train.model import BertTower, Classifier, DualEncoder, Temperature, TimmTower
from align_train.model.base import ImageTower
from align_train.strategy import FSDP
from align_train.training.flops import ModelFlops
from align_train.training.module import TrainingModule
from tests.support.optimizers import PLAIN_ADAMW
from tests.support.parity import Case, fit, model_of, small_model


def of(model: nn.Module, prefix: str) -> set[str]:
    return {name for name, value in model.named_parameters() if name.startswith(prefix)}


def trained(model: nn.Module) -> set[str]:
    return {name for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize(
    ("lock", "prefixes"),
    [
        (None, ("image_tower.", "text_tower.")),
        ("image", ("text_tower.",)),
        # Its three blocks are 0.0, 1.0 and 1.1; nothing follows them.
        ("image:all_but_2", ("image_tower.network.blocks.1.", "text_tower.")),
        ("image:all_but_3", ("image_tower.network.blocks.", "text_tower.")),
        ("text:all_but_0", ("image_tower.", "text_tower.projection.")),
        (
            ["image:all_but_1", "text:all_but_1"],
            (
                "image_tower.network.blocks.1.1.",
                "text_tower.network.encoder.layer.0.",
                "text_tower.projection.",
            ),
        ),
        (["image", "text"], ()),
    ],
)
def test_the_last_blocks_and_what_follows_are_trained(lock: Any, prefixes: tuple[str, ...]) -> None:
    model = small_model(lock=lock)
    expected = {"temperature.value"}.union(*(of(model, prefix) for prefix in prefixes))
    assert trained(model) == expected
    assert all(of(model, prefix) for prefix in prefixes)
    assert trained(model) == {
        name
        for group in PLAIN_ADAMW.build(model).param_groups
        for name, value in model.named_parameters()
        if any(value is member for member in group["params"])
    }


def vit(lock: str) -> DualEncoder:
    options = {
        "img_size": 16,
        "patch_size": 8,
        "embed_dim": 12,
        "depth": 3,
        "num_heads": 2,
        "reg_tokens": 4,
        "pos_drop_rate": 0.5,
    }
    tower = TimmTower(name="vit_tiny_patch16_224", projection=6, options=options)
    bert: dict[str, Any] = {"hidden": 8, "layers": 2, "heads": 2, "intermediate": 8}
    return DualEncoder(
        image_tower=tower,
        text_tower=lambda **given: BertTower(**given, **bert),
        temperature=Temperature(initial=0.1),
        vocabulary_size=50,
        lock=lock,
    )


def test_a_vits_tokens_and_dropout_below_are_locked_and_its_norm_above_is_trained() -> None:
    model = vit("image:all_but_1")
    image = {name for name in trained(model) if name.startswith("image_tower.")}
    assert image == {
        *of(model, "image_tower.network.blocks.2."),
        *of(model, "image_tower.network.norm."),
        *of(model, "image_tower.projection."),
    }
    network: Any = model.train().image_tower.network
    assert not network.pos_drop.training and not network.blocks[1].attn.training
    assert network.blocks[2].mlp.training and network.norm.training and network.training
    assert model.text_tower.blocks[0].training


@pytest.mark.parametrize("lock", ["image", "image:all_but_1", "image:all_but_2"])
def test_statistics_and_weights_of_what_is_locked_stay_bitwise(lock: str) -> None:
    """Five steps of the real training step, norm groups and drop path on."""
    case = Case("ddp", 1, optimizer="adamw", dtype="float32", lock=lock, recompute=False)
    before = {name: value.clone() for name, value in model_of(case).state_dict().items()}
    module = fit(case)
    assert isinstance(module, TrainingModule)
    after = module.model.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}

    first = {"image": 3, "image:all_but_1": 2, "image:all_but_2": 1}[lock]
    blocks = ("blocks.0.0.", "blocks.1.0.", "blocks.1.1.")
    above = [name for name in before if any(block in name for block in blocks[first:])]
    assert {name for name in moved if name.startswith("image_tower.")} == set(above)
    statistics = {name for name in moved if "running" in name or "num_batches" in name}
    assert len(statistics) == 9 * (3 - first)


def test_an_impossible_lock_is_refused_with_what_is_possible() -> None:
    with pytest.raises(ValueError, match="image:all_but_4: the tower has 3 blocks; expected all_b"):
        small_model(lock="image:all_but_4")
    with pytest.raises(ValueError, match="locks a tower twice"):
        small_model(lock=["image", "image:all_but_1"])

    class Bare(ImageTower):
        dim = 4

    with pytest.raises(ValueError, match=r"has 0 blocks; take model\.lock=image"):
        Classifier(image_tower=Bare(), classes=3, lock="image:all_but_1")
    for wrong in ("head", "image:all_but_x", 3, ["image", "head"]):
        node = {"_target_": "align_train.model.DualEncoder", "lock": wrong}
        with pytest.raises(UserError, match=r"model\.lock=.*: expected image or text or image:all"):
            check_lock(node)


def test_fsdp_with_reshard_locks_whole_towers_only() -> None:
    by_depth = {"lock": ["text", "image:all_but_1"]}
    with pytest.raises(UserError, match=r"reshard=true, blocks cannot be locked .* whole towers"):
        check_lock_under(by_depth, FSDP(reshard=True))
    check_lock_under({"lock": "image"}, FSDP(reshard=True))
    check_lock_under(by_depth, FSDP(reshard=False))


def test_a_step_of_the_last_blocks_costs_their_backward_pass_alone() -> None:
    whole, locked, half = (
        ModelFlops(small_model(lock=lock)) for lock in (None, "image", "image:all_but_1")
    )
    text = whole.of_step(1, 8) - locked.of_step(1, 8)  # the image tower's backward pass
    assert 0 < half.of_step(1, 8) - locked.of_step(1, 8) < text
