"""Adapters: gradients of a plain W + BA, weights merged, and nothing that is locked moves."""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from align_train.errors import UserError
from align_train.loss import ContrastiveLoss
from align_train.model import BertTower, DualEncoder, Temperature, TimmTower
from align_train.model.hugging_face_text import HuggingFaceTextTower
from align_train.model.lora import Adapters, add_adapters, merged
from align_train.stream.batch import normalise
from align_train.training.forward import Towers
from tests.support.parity import TOKENS, small_batch, small_model
from tests.support.text_encoders import make_encoder

ALPHA, RANK = 6.0, 3


def timm_model(name: str, **options: Any) -> DualEncoder:
    """A model with a small image tower of timm's."""
    torch.manual_seed(0)
    return DualEncoder(
        image_tower=TimmTower(name=name, options=options or None),
        text_tower=partial(BertTower, hidden=16, layers=1, heads=2, intermediate=32, dropout=0.0),
        temperature=Temperature(initial=0.1),
        vocabulary_size=50,
        image_size=16,
        resize_size=16,
        max_tokens=TOKENS,
    )


MODELS: dict[str, Callable[[], DualEncoder]] = {
    "EfficientNet": small_model,
    "ViT": partial(timm_model, "test_vit", img_size=16),
    "ResNet": partial(timm_model, "test_resnet"),
}


def with_adapters(model: DualEncoder, **options: Any) -> DualEncoder:
    """Adapters in both towers, whose B is not zero any more."""
    torch.manual_seed(5)
    for tower in ("image", "text"):
        add_adapters(model, tower, Adapters(rank=RANK, alpha=ALPHA, **options))
    for name, value in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value, std=0.1)
    return model


def embedded(model: nn.Module, weights: dict[str, Tensor] | None = None) -> list[Tensor]:
    """Images and texts of a batch, by the model's weights or by others."""
    batch = small_batch(12)
    dtype = next(model.parameters()).dtype
    pixels = normalise(batch.images, model, dtype)  # type: ignore[arg-type]
    given: Any = (pixels, batch.input_ids)
    return list(model(*given) if weights is None else functional_call(model, weights, given))


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_are_those_of_plain_matrices(kind: str) -> None:
    """Of A and B in float64: the same model, with W + alpha / rank · B·A in the place of W."""
    plain = MODELS[kind]().double().eval()
    adapted = with_adapters(deepcopy(plain)).eval()
    taught = small_batch(12)
    target = torch.randn(2, len(taught), adapted.dim, dtype=torch.float64)
    loss = sum(
        (part * wanted).sum() for part, wanted in zip(embedded(adapted), target, strict=True)
    )
    loss.backward()

    own = {name: value for name, value in adapted.named_parameters() if "lora_" in name}
    assert own and all(value.grad is not None for value in own.values())
    leaves = {name: value.detach().clone().requires_grad_() for name, value in own.items()}
    weights: dict[str, Tensor] = {}
    for name, value in plain.state_dict().items():
        owner = name.removesuffix(".weight")
        down = leaves.get(f"{owner}.lora_A.default.weight")
        if down is not None and name.endswith(".weight"):
            up = leaves[f"{owner}.lora_B.default.weight"]
            product = up.flatten(1) @ down.flatten(1)
            value = value + ALPHA / RANK * product.view(value.shape)
        weights[name] = value
    plain_loss: Any = sum(
        (part * wanted).sum() for part, wanted in zip(embedded(plain, weights), target, strict=True)
    )
    torch.testing.assert_close(plain_loss, loss.detach(), rtol=1e-12, atol=1e-12)
    for name, gradient in zip(
        leaves, torch.autograd.grad(plain_loss, list(leaves.values())), strict=True
    ):
        torch.testing.assert_close(own[name].grad, gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_fifty_steps_move_adapters_alone_and_merge_into_the_plain_model() -> None:
    """Statistics and weights of what is locked stay bitwise; merged = with adapters, to 1e-6."""
    model = small_model()
    # Statistics that no training left at their beginning.
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    plain = deepcopy(model)
    add_adapters(model, "image", Adapters(rank=RANK, alpha=ALPHA, dropout=0.1, projection=False))
    before = deepcopy(model.state_dict())

    towers = Towers(model, seed=0, norm_group=6)
    loss = ContrastiveLoss()
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0.1)
    for step in range(50):
        batch = small_batch(12, step)
        images, texts = towers.embed(batch, chunk_size=6, recompute=step % 2 == 0)
        optimizer.zero_grad()
        loss(images, texts, model.temperature()).backward()
        optimizer.step()
        towers.end_step()
        towers.statistics.finish_step()

    after = model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    locked = [name for name in after if name.startswith("image_tower.") and "lora_" not in name]
    assert not moved & set(locked)
    assert len(locked) > 20
    assert {name for name in after if "lora_" in name} <= moved
    assert any(name.startswith("text_tower.") for name in moved)

    model.eval()
    with torch.no_grad():
        expected = embedded(model)
        begun = embedded(plain.eval())
        plain.load_state_dict(merged(after, ALPHA))
        found = embedded(plain)
    assert (begun[0] - expected[0]).abs().max() > 0.02, "nothing was learned"
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_locked_batch_norm_stays_in_evaluation_mode() -> None:
    model = with_adapters(small_model()).train()
    norms = [part for part in model.image_tower.modules() if isinstance(part, _BatchNorm)]
    assert norms and not any(norm.training for norm in norms)
    assert model.image_tower.training and model.text_tower.training
    # So no norm group is asked for.
    assert Towers(model, seed=0, norm_group=None).norm_group is None


def test_adapters_begin_as_the_tower_and_leave_others_alone() -> None:
    plain = small_model().eval()
    model = deepcopy(plain)
    add_adapters(model, "text", Adapters(rank=2, alpha=4, targets=["query", "value"]))
    for found, expected in zip(embedded(model.eval()), embedded(plain), strict=True):
        assert torch.equal(found, expected)

    adapted = {
        name.partition(".lora_")[0] for name, _ in model.named_parameters() if "lora_" in name
    }
    assert {name.rpartition(".")[2] for name in adapted} == {"query", "value"}
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {name for name in trained if name.startswith("image_tower.")}
    assert {name for name in trained if name.startswith("text_tower.") and "lora_" not in name} == {
        "text_tower.projection.weight",
        "text_tower.projection.bias",
    }


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["qery"], "no layer's name ends with qery; there are "),
        (["bn1"], "is a BatchNormAct2d; expected linear layers"),
        (["conv_dw"], "is a Conv2d; expected linear layers, or convolutions without groups"),
    ],
)
def test_layers_that_cannot_have_adapters_are_refused(targets: list[str], words: str) -> None:
    with pytest.raises(UserError, match=r"lora\.image_targets: ") as error:
        add_adapters(small_model(), "image", Adapters(rank=2, alpha=4, targets=targets))
    assert words in str(error.value)


def test_layers_whose_weight_another_part_reads_are_refused() -> None:
    """As the last layer of torch's attention: its adapter would never be trained."""
    model = small_model()
    model.image_tower.attention = nn.MultiheadAttention(4, 1)
    with pytest.raises(UserError, match=r"out_proj is a NonDynamicallyQuantizableLinear"):
        add_adapters(model, "image", Adapters(rank=2, alpha=4, targets=["out_proj"]))


@pytest.mark.parametrize("kind", ["xlm-roberta", "modernbert", "clip", "siglip"])
def test_encoders_of_hugging_face_take_adapters_and_give_them_back(
    kind: str, tmp_path: Path
) -> None:
    """Each adapter has a gradient; merged weights fit the plain tower, and embed alike."""
    size = make_encoder(tmp_path, kind, dropout=0.0).config.vocab_size
    make = partial(HuggingFaceTextTower, dim=8, vocabulary_size=size, name=str(tmp_path))
    model = small_model()
    model.text_tower = make(pretrained=True)
    with_adapters(model).eval()
    ids = torch.randint(6, 200, (4, 9), dtype=torch.int32)
    ids[0, 5:] = -1
    ids[:, 4] = 4  # CLIP's end token
    found = model.text_tower(ids)
    found.square().sum().backward()
    trained = [value for value in model.text_tower.parameters() if value.requires_grad]
    assert len(trained) > 20 and all(value.grad is not None for value in trained)

    merged_state = merged(model.text_tower.state_dict(), ALPHA)
    plain = make().eval()
    plain.load_state_dict(merged_state)
    torch.testing.assert_close(plain(ids), found, rtol=1e-5, atol=2e-6)
    plain.network.load_state_dict(make(pretrained=True).network.state_dict())
    assert (plain(ids) - found).abs().max() > 1e-2, "the adapters changed nothing"


def test_without_peft_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"lora\.text=2: needs peft; install it with `pip install"):
        add_adapters(small_model(), "text", Adapters(rank=2, alpha=4))
