"""timm's optimizers and AdEMAMix: each element alone or not, and states that go on bitwise."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from align_train.config.optimizer import check_optimizer
from align_train.errors import UserError
from align_train.optim.timm import ELEMENT_WISE, WHOLE
from align_train.strategy import DDP, FSDP, DeepSpeed
from align_train.strategy.optimizer_state import fill_optimizer_state, whole_optimizer_state
from tests.support.optimizers import PLAIN_ADEMAMIX, PLAIN_TIMM

SHAPES = [(24, 20), (20,), (18, 17, 3, 3), (1,)]


def recipe_of(name: str) -> Any:
    if name == "ademamix":
        return replace(PLAIN_ADEMAMIX, lr=0.01, weight_decay=0.1)
    return replace(PLAIN_TIMM, name=name, lr=0.01, weight_decay=0.1)


class Weights(nn.Module):
    def __init__(self, values: list[Tensor]) -> None:
        super().__init__()
        self.values = nn.ParameterList(nn.Parameter(value.clone()) for value in values)


def drawn(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def step(model: Weights, optimizer: torch.optim.Optimizer, gradients: list[Tensor]) -> None:
    for parameter, gradient in zip(model.values, gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()


def flat(values: Any) -> Tensor:
    return torch.cat([value.detach().flatten() for value in values])


def in_two(values: list[Tensor]) -> list[Tensor]:
    """Two flat tensors that cut through the values."""
    joined = flat(values)
    return [joined[:700], joined[700:]]


@pytest.mark.parametrize("name", [*ELEMENT_WISE, *WHOLE, "ademamix"])
def test_only_those_that_see_each_element_alone_are_right_on_flat_tensors(name: str) -> None:
    """Whole parameters, and the same numbers as two flat tensors that cut through them."""
    recipe = recipe_of(name)
    whole = Weights(drawn(0))
    cut = Weights(in_two(drawn(0)))
    cut_gradients = [in_two(drawn(number)) for number in range(5)]
    optimizers = recipe.build(whole), recipe.build(cut)
    for number in range(1, 5):
        step(whole, optimizers[0], drawn(number))
        step(cut, optimizers[1], cut_gradients[number])
    apart = float((flat(whole.values) - flat(cut.values)).abs().max())
    assert apart > 1e-5 if recipe.wants_whole else apart == 0


@pytest.mark.parametrize("name", [*ELEMENT_WISE, *WHOLE, "ademamix"])
def test_its_state_goes_through_a_checkpoint_bitwise(name: str) -> None:
    recipe = recipe_of(name)
    model = Weights(drawn(0))
    optimizer = recipe.build(model)
    for number in range(1, 4):
        step(model, optimizer, drawn(number))

    other = Weights([value.detach() for value in model.values])
    again = recipe.build(other)
    fill_optimizer_state(other, again, whole_optimizer_state(model, optimizer, keep=True))
    for number in range(4, 7):
        step(model, optimizer, drawn(number))
        step(other, again, drawn(number))
    assert torch.equal(flat(model.values), flat(other.values))


def test_ademamix_is_the_papers_algorithm() -> None:
    """Algorithm 1 and its two schedulers, element by element, in float64."""
    start = [value.double() for value in drawn(0)]
    model = Weights(start)
    optimizer = recipe_of("ademamix").build(model)
    weight = start[0].clone()
    fast, slow, square = (torch.zeros_like(weight) for _ in range(3))
    for number in range(1, 8):
        gradients = [value.double() for value in drawn(number)]
        step(model, optimizer, gradients)

        share = min(number / 4, 1)
        beta3 = 0.999
        if share < 1:
            a, b = math.log(0.9), math.log(0.999)
            beta3 = min(math.exp(a * b / ((1 - share) * b + share * a)), 0.999)
        fast = 0.9 * fast + 0.1 * gradients[0]
        slow = beta3 * slow + (1 - beta3) * gradients[0]
        square = 0.98 * square + 0.02 * gradients[0] ** 2
        root = (square / (1 - 0.98**number)).sqrt() + 1e-8
        update = (fast / (1 - 0.9**number) + 5 * share * slow) / root
        weight = weight - 0.01 * (update + 0.1 * weight)
    torch.testing.assert_close(model.values[0].detach(), weight, rtol=1e-12, atol=1e-13)


def test_whole_parameters_are_wanted_and_sharding_is_refused_in_one_line() -> None:
    class Settings:
        optimizer: Any = None

    settings: Any = Settings()
    node = asdict(PLAIN_TIMM) | {"_target_": "align_train.optim.Timm", "exempt": []}
    for strategy in (FSDP(reshard=False), DeepSpeed(stage=1, options=None)):
        for name in WHOLE:
            settings.optimizer = node | {"name": name}
            check_optimizer(settings, DDP())
            with pytest.raises(UserError, match=rf"name={name}: looks at whole .* strategy=ddp"):
                check_optimizer(settings, strategy)
        settings.optimizer = node | {"name": "lion"}
        check_optimizer(settings, strategy)


def test_unknown_names_and_options_are_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="name=kron: not supported; expected one of adabelief,"):
        recipe_of("kron")
    with pytest.raises(ValueError, match=r"optimizer\.options\.momentun: muon has no such option"):
        replace(PLAIN_TIMM, name="muon", options={"momentun": 0.9})
