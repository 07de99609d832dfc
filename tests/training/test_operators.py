"""Operators are counted by what they do, whoever computes them: real tensors or fake ones."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from align_train.model import BertTower, TimmTower
from align_train.training.fakes import fake_copy, fake_tensors
from align_train.training.operator_counter import OperatorCounter
from align_train.training.operators import DEPTHWISE

WIDTH, LAYERS, DIM = 128, 2, 32


def bert(*, dropout: float) -> BertTower:
    return BertTower(
        dim=DIM,
        vocabulary_size=100,
        hidden=WIDTH,
        layers=LAYERS,
        heads=4,
        intermediate=4 * WIDTH,
        dropout=dropout,
    )


def vit(*, patches: int, fused: bool) -> TimmTower:
    tower = TimmTower(
        name="vit_tiny_patch16_224",
        projection=DIM,
        pretrained=False,
        options={
            "img_size": 16 * patches,
            "embed_dim": WIDTH,
            "depth": LAYERS,
            "num_heads": 4,
        },
    )
    for module in tower.modules():
        if isinstance(getattr(module, "fused_attn", None), bool):
            setattr(module, "fused_attn", fused)  # noqa: B010
    return tower


def of_transformer(tokens: int) -> float:
    """A forward pass: 24·n·w² of the four projections and the two linear layers, 4·n²·w."""
    return LAYERS * (24 * tokens * WIDTH**2 + 4 * tokens**2 * WIDTH)


def counted(tower: nn.Module, given: Tensor, *, fake: bool) -> float:
    mode = fake_tensors()
    if fake:
        tower = fake_copy(tower, mode)
    with torch.no_grad(), mode if fake else nullcontext(), OperatorCounter() as counter:
        tower(torch.ones_like(given))
    flops: float = counter.flops
    return flops


@pytest.mark.parametrize("fake", [True, False], ids=["fake", "real"])
@pytest.mark.parametrize("dropout", [0.0, 0.1], ids=["fused attention", "eager attention"])
@pytest.mark.parametrize("tokens", [8, 64, 197])
def test_bert_costs_its_closed_formula(tokens: int, dropout: float, fake: bool) -> None:
    # Eager: attention with dropout, which only training takes.
    tower = bert(dropout=dropout).train()
    expected = of_transformer(tokens) + 2 * WIDTH * DIM
    given = torch.ones(1, tokens, dtype=torch.int32)
    assert counted(tower, given, fake=fake) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("fake", [True, False], ids=["fake", "real"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("patches", [2, 8, 14])
def test_a_vit_costs_its_closed_formula(patches: int, fused: bool, fake: bool) -> None:
    tower = vit(patches=patches, fused=fused).eval()
    images = torch.ones(1, 3, 16 * patches, 16 * patches)
    of_patches = 2 * patches**2 * 3 * 16**2 * WIDTH
    expected = of_patches + of_transformer(patches**2 + 1) + 2 * WIDTH * DIM
    assert counted(tower, images, fake=fake) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("tower", ["bert", "vit"])
def test_forward_and_backward_cost_what_torchs_counter_says(tower: str) -> None:
    # Eager attention and no grouped convolution: there torch's own formulas are right.
    network: nn.Module = bert(dropout=0.1) if tower == "bert" else vit(patches=4, fused=False)
    given = torch.ones(2, 24, dtype=torch.int32) if tower == "bert" else torch.ones(2, 3, 64, 64)
    network.train()
    with OperatorCounter() as ours:
        network(given).sum().backward()
    with FlopCounterMode(display=False) as torchs:
        network(given).sum().backward()
    assert ours.flops == torchs.get_total_flops() > 0


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_a_backward_pass_of_a_convolution_costs_two_forward_passes(groups: int) -> None:
    layer = nn.Conv2d(16, 16, 3, padding=1, groups=groups, bias=False)
    images = torch.ones(2, 16, 9, 9, requires_grad=True)
    forward = 2 * 2 * 81 * 9 * 16 * 16 / groups
    with OperatorCounter() as counter:
        result = layer(images)
        assert counter.flops == forward
        result.backward(torch.ones_like(result))
    assert counter.flops == 3 * forward

    with OperatorCounter() as of_weight_only:
        layer(images.detach()).sum().backward()
    assert of_weight_only.flops == 2 * forward
    depthwise = {operator.kind for operator in counter.operators if operator.flops} == {DEPTHWISE}
    assert depthwise == (groups == 16)


def test_memory_counts_until_nobody_refers_to_it() -> None:
    with OperatorCounter() as counter:
        first = torch.zeros(1000)
        view = first[:10]
        second = first + 1
        assert counter.held == 8000
        del first
        assert counter.held == 8000  # the view holds it
        del view
        assert counter.held == 4000
        second += 1
        second.view(10, 100).t()
        assert counter.held == 4000
    assert counter.peak == 8000


def test_gradients_are_told_apart_from_what_else_is_held() -> None:
    # Three layers without bias; their inputs are kept until their gradients are there.
    layers = nn.Sequential(*[nn.Linear(300, 300, bias=False) for _ in range(3)])
    with OperatorCounter() as counter:
        counter.watch_gradients(layers.parameters())
        result = layers(torch.zeros(10, 300))
        counter.forget_peak()
        result.sum().backward()
    gradients = 3 * 300 * 300 * 4
    assert counter.gradients == gradients
    assert counter.peak >= gradients
    assert counter.peak_beside_gradients < gradients
    assert counter.peak_before_gradients >= gradients


def test_a_view_moves_nothing_and_a_lookup_only_its_rows() -> None:
    table = torch.zeros(1000, 10)
    with OperatorCounter() as counter:
        table.view(-1, 1).expand(-1, 5).t()
        assert counter.read_and_written == 0
        nn.functional.embedding(torch.tensor([3, 4]), table)
        lookup = counter.read_and_written
        table + 1
    assert lookup == 2 * 2 * 10 * 4
    assert counter.read_and_written - lookup == 2 * 1000 * 10 * 4
