"""The parameter groups of optimizers, the first step of LAMB, and the schedule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from align_train.optim.lamb import LambOptimizer
from benchmarks.shared.dispatch import Operators
from tests.support.optimizers import PLAIN_ADAMW, PLAIN_LAMB
from tests.support.parity import small_model


def names_by_group(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[set[str]]:
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        {name_of[id(parameter)] for parameter in group["params"]}
        for group in optimizer.param_groups
    ]


def test_every_parameter_is_in_one_group_and_exempt_ones_do_not_decay() -> None:
    model = small_model()
    optimizer = replace(PLAIN_ADAMW, lr=1e-3, weight_decay=0.1, temperature_lr=1e-4).build(model)
    adapted, spared, temperature = names_by_group(optimizer, model)
    assert adapted | spared | temperature == {name for name, _ in model.named_parameters()}
    assert temperature == {"temperature.value"}
    assert all(name.endswith("bias") or "bn" in name or "LayerNorm" in name for name in spared)
    assert not any("bn" in name or "LayerNorm" in name or name.endswith("bias") for name in adapted)
    assert [(group["weight_decay"], group["lr"]) for group in optimizer.param_groups] == [
        (0.1, 1e-3),
        (0.0, 1e-3),
        (0.0, 1e-4),
    ]


def test_coyo_exempts_only_batch_norm() -> None:
    model = small_model()
    optimizer = replace(PLAIN_LAMB, lr=1e-3, weight_decay=0.1).build(model)
    adapted, spared, temperature = names_by_group(optimizer, model)
    assert spared and all("bn" in name for name in spared)
    assert "text_tower.projection.bias" in adapted
    assert optimizer.param_groups[2]["weight_decay"] == 0.1 and temperature == {"temperature.value"}


def test_the_text_tower_may_have_its_own_learning_rate() -> None:
    model = small_model()
    recipe = replace(PLAIN_ADAMW, lr=1e-3, text_lr=2e-4, temperature_lr=1e-4, weight_decay=0.1)
    optimizer = recipe.build(model)
    adapted, spared, text_adapted, text_spared, temperature = names_by_group(optimizer, model)
    assert all(name.startswith("image_tower.") for name in adapted | spared)
    assert all(name.startswith("text_tower.") for name in text_adapted | text_spared)
    assert "text_tower.projection.bias" in text_spared and temperature == {"temperature.value"}
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-3, 2e-4, 2e-4, 1e-4]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0, 0.1, 0.0, 0.0]


def test_a_locked_tower_has_no_group() -> None:
    model = small_model(lock="image")
    assert not any(
        "image_tower" in name
        for group in names_by_group(PLAIN_ADAMW.build(model), model)
        for name in group
    )


def test_an_unknown_kind_of_parameter_is_named() -> None:
    with pytest.raises(ValueError, match="biases"):
        replace(PLAIN_ADAMW, exempt=["biases"])


def test_the_first_step_of_lamb_is_that_of_the_paper() -> None:
    """You et al. 2020, algorithm 2, by hand: at step 1 Adam's direction is g / (|g| + eps)."""
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    lr, decay, eps = 0.1, 0.5, 1e-6
    optimizer = replace(PLAIN_LAMB, lr=lr, weight_decay=decay, eps=eps).build(model)
    for parameter in model.parameters():
        parameter.grad = torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
        )
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        direction = parameter.grad / (parameter.grad.abs() + eps)
        if name.startswith("0."):
            direction = direction + decay * before[name]
            direction = direction * before[name].norm() / direction.norm()
        torch.testing.assert_close(
            parameter.detach(), before[name] - lr * direction, rtol=1e-4, atol=1e-6
        )


def test_a_step_of_lamb_calls_no_operator_for_each_parameter() -> None:
    """Neither many operators, nor a kernel for each parameter; channels_last weights included."""

    def counted(layers: int) -> tuple[int, int]:
        convolutions = [nn.Conv2d(8, 8, 3) for _ in range(layers)]
        model = nn.Sequential(*convolutions).to(memory_format=torch.channels_last)
        optimizer = PLAIN_LAMB.build(model)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        with Operators() as operators:
            optimizer.step()
        return operators.parts[""].total, operators.parts[""].launches

    few, many = counted(10), counted(100)
    assert many[0] == few[0] < 30
    # 200 parameters: at most four kernels for each operator.
    assert many[1] < 4 * many[0]


def test_the_trust_ratio_of_lamb_is_that_of_each_whole_parameter() -> None:
    """Parameters of less than a block, of several, empty ones and those of channels_last weights.

    Three steps, by a loop over the parameters in float64.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = [(3,), (), (0, 4), (40, 60), (16, 8, 3, 3), (1024,)]
    start = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    start[4] = start[4].to(memory_format=torch.channels_last)
    parameters = [nn.Parameter(value.clone()) for value in start]
    group = {"params": parameters, "lr": 0.1, "weight_decay": 0.5, "always_adapt": True}
    optimizer = LambOptimizer([group], betas=(0.9, 0.99), eps=1e-6)

    mean, square = ([torch.zeros_like(value) for value in start] for _ in range(2))
    for step in range(1, 4):
        for index, weight in enumerate(start):
            gradient = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            parameters[index].grad = gradient
            mean[index] = 0.9 * mean[index] + 0.1 * gradient
            square[index] = 0.99 * square[index] + 0.01 * gradient**2
            spread = (square[index] / (1 - 0.99**step)).sqrt() + 1e-6
            update = mean[index] / (1 - 0.9**step) / spread + 0.5 * weight
            if weight.numel():
                start[index] = weight - 0.1 * weight.norm() / update.norm() * update
        optimizer.step()

    for parameter, expected in zip(parameters, start, strict=True):
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-13)
