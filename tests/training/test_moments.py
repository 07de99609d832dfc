"""A run that goes on with another optimizer: it begins without averages, and says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from align_train.strategy.optimizer_state import fill_optimizer_state, whole_optimizer_state
from align_train.training.moments import drop_other_moments, note_moments
from tests.support.optimizers import (
    PLAIN_ADAMW,
    PLAIN_ADEMAMIX,
    PLAIN_LAMB,
    PLAIN_SGD,
    PLAIN_TIMM,
)

RECIPES: dict[str, Any] = {
    "adamw": PLAIN_ADAMW,
    "lamb": PLAIN_LAMB,
    "sgd": PLAIN_SGD,
    "ademamix": PLAIN_ADEMAMIX,
    "lion": PLAIN_TIMM,
    "muon": replace(PLAIN_TIMM, name="muon"),
    "adafactor": replace(PLAIN_TIMM, name="adafactor"),
    "with betas": replace(PLAIN_TIMM, name="adafactor", options={"betas": [0.9, 0.999]}),
}


def step(model: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


@pytest.mark.parametrize("before", RECIPES)
def test_averages_of_another_optimizer_are_dropped_and_this_one_can_step(before: str) -> None:
    """From each to each: the step is that of an optimizer without a past, or goes on."""
    old = nn.Linear(20, 24)
    optimizer = RECIPES[before].build(old)
    step(old, optimizer)
    state = whole_optimizer_state(old, optimizer, keep=True)

    for now, recipe in RECIPES.items():
        checkpoint: dict[str, Any] = {"optimizer_states": [state]}
        note_moments(checkpoint, RECIPES[before])
        says = drop_other_moments(checkpoint, recipe)
        goes_on = before == now or {before, now} == {"adamw", "lamb"}
        assert (says == "") == goes_on

        model, fresh = nn.Linear(20, 24), nn.Linear(20, 24)
        fresh.load_state_dict(model.state_dict())
        loaded = recipe.build(model)
        fill_optimizer_state(model, loaded, checkpoint["optimizer_states"][0])
        step(model, loaded)
        if not goes_on:
            step(fresh, recipe.build(fresh))
            assert torch.equal(model.weight, fresh.weight)


def test_a_checkpoint_of_before_keeps_its_averages() -> None:
    checkpoint: dict[str, Any] = {"optimizer_states": ["as it was"]}
    assert drop_other_moments(checkpoint, PLAIN_ADAMW) == ""
    assert checkpoint == {"optimizer_states": ["as it was"]}
