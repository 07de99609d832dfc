"""Each schedule against a plain formula: in steps, in pairs, from the start, from an anchor."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from align_train.errors import UserError
from align_train.optim.schedules import Anchor, Anchored, Schedule
from tests.support.schedules import schedule

STEPS, WARMUP, DECAY, EVERY = 40, 6, 10, 7


def linear(step: int, steps: int) -> float:
    return 0.1 + 0.9 * (steps - step) / (steps - WARMUP)


def cosine(step: int, steps: int) -> float:
    return 0.1 + 0.9 * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP))) / 2


def constant(step: int, steps: int) -> float:
    return 1.0


def stepped(step: int, steps: int) -> float:
    return float(0.5 ** len([cut for cut in range(EVERY, steps, EVERY) if cut <= step]))


def stable(kind: str) -> Any:
    def formula(step: int, steps: int) -> float:
        over = max(0, step - (steps - DECAY)) / DECAY
        left = {
            "linear": 1 - over,
            "sqrt": 1 - math.sqrt(over),
            "cosine": (1 + math.cos(math.pi * over)) / 2,
        }
        return 0.1 + 0.9 * left[kind]

    return formula


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "warmup_linear": (linear, {"final": 0.1}),
    "cosine": (cosine, {"final": 0.1}),
    "constant": (constant, {}),
    "step_decay": (stepped, {"every": EVERY, "ratio": 0.5}),
    "warmup_stable_decay linear": (stable("linear"), {"decay": "linear"}),
    "warmup_stable_decay sqrt": (stable("sqrt"), {"decay": "sqrt"}),
    "warmup_stable_decay cosine": (stable("cosine"), {"decay": "cosine"}),
}


def of_case(case: str, **lengths: int | None) -> Schedule:
    name, _, decay = case.partition(" ")
    if decay:
        lengths = {"decay_steps": DECAY, **lengths}
    options = CASES[case][1] | ({"final": 0.1} if decay else {})
    return schedule(name, **{**options, **lengths})


@pytest.mark.parametrize("case", CASES)
def test_each_schedule_is_its_plain_formula(case: str) -> None:
    """Also from an anchor at step 100: the same over 40 further steps, but for the warm-up.

    And in pairs, 128 a step: those lengths are rounded up.
    """
    formula = CASES[case][0]
    in_steps = of_case(case, warmup_steps=WARMUP)
    in_pairs: dict[str, int | None] = {"warmup_steps": None, "warmup_pairs": WARMUP * 128 - 127}
    if case == "step_decay":
        in_pairs |= {"every": None, "every_pairs": EVERY * 128 - 5}
    if case.startswith("warmup_stable"):
        in_pairs |= {"decay_steps": None, "decay_pairs": DECAY * 128 - 5}
    same = of_case(case, **in_pairs)
    anchored = Anchored(in_steps, Anchor(100, 0.4))

    for step in range(STEPS):
        warming = step < WARMUP
        expected = (step + 1) / WARMUP if warming else formula(step, STEPS)
        assert in_steps.factor(step, STEPS) == pytest.approx(expected, rel=1e-12), step
        assert same.factor(step, STEPS) == in_steps.factor(step, STEPS)
        risen = 0.4 + 0.6 * (step + 1) / WARMUP if warming else formula(step, STEPS)
        assert anchored.factor(100 + step, 100 + STEPS) == pytest.approx(risen, rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_a_run_shorter_than_its_warm_up_only_rises(case: str) -> None:
    short = of_case(case, warmup_steps=50)
    assert [short.factor(step, 12) for step in range(12)] == [n / 50 for n in range(1, 13)]


def test_the_optimizer_takes_the_factor_of_finished_steps_times_its_groups_rates() -> None:
    """As PyTorch counts them: the first step has the factor of no finished steps."""
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [parameters[0]], "lr": 3.0}, {"params": [parameters[1]], "lr": 0.5}]
    optimizer = torch.optim.SGD(groups)
    cosine = schedule("cosine", warmup_steps=2)
    torchs = cosine.build(optimizer, 8)
    for step in range(8):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == [rate * cosine.factor(step, 8) for rate in (3.0, 0.5)]
        optimizer.step()
        torchs.step()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cosine", {"final": 2}, "scheduler.final=2: expected a share"),
        ("cosine", {"warmup_steps": -1}, "warmup_steps=-1: expected at least 0"),
        ("cosine", {"warmup_steps": None, "warmup_pairs": -1}, "warmup_pairs=-1: expected"),
        ("constant", {"warmup_steps": None}, "expected one of them"),
        ("constant", {"warmup_pairs": 7}, "expected one of them"),
        ("step_decay", {"every": 0}, "scheduler.every=0: expected at least 1"),
        ("warmup_stable_decay", {"decay_steps": 0}, "scheduler.decay_steps=0: expected"),
    ],
)
def test_a_length_that_makes_no_sense_is_named(
    name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        schedule(name, **options)
