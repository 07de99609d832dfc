"""The order of a step's end, and that every hook of Lightning reaches the parts that need it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, create_autospec

import pytest
import torch
from torch import nn

from align_train.cluster.watchdog import Watchdog
from align_train.errors import Stopped
from align_train.training.callbacks import (
    Agreement,
    Averaging,
    Checkpoints,
    Evaluation,
    Metrics,
    NonFinite,
    Progress,
    Samples,
    Stopping,
    Throughput,
)
from align_train.training.step_end import StepEnd

PARTS = {
    "agreement": Agreement,
    "throughput": Throughput,
    "non_finite": NonFinite,
    "averaging": Averaging,
    "evaluation": Evaluation,
    "metrics": Metrics,
    "samples": Samples,
    "progress": Progress,
    "checkpoints": Checkpoints,
    "stopping": Stopping,
    "watchdog": Watchdog,
}

STEP = 7
BATCH = "three"  # has a length, as a batch has


@pytest.fixture
def spies() -> Mock:
    """One spy a part; a method that the part does not have, or not so, is an error."""
    together = Mock()
    for name, part in PARTS.items():
        together.attach_mock(create_autospec(part, instance=True), name)
    return together


@pytest.fixture
def step_end(spies: Mock) -> StepEnd:
    return StepEnd(**{name: getattr(spies, name) for name in PARTS})


@pytest.fixture
def trainer() -> Any:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(global_step=STEP, is_global_zero=True, strategy=strategy)


@pytest.fixture
def module() -> Any:
    return SimpleNamespace(model=nn.Identity())


def calls(spies: Mock) -> list[str]:
    return [name for name, _, _ in spies.mock_calls]


def test_the_end_of_a_step_calls_the_parts_in_this_order(
    step_end: StepEnd, spies: Mock, trainer: Any, module: Any
) -> None:
    step_end.on_train_batch_end(trainer, module, None, BATCH, 0)  # type: ignore[arg-type]
    assert calls(spies) == [
        "agreement.agree",
        "throughput.measure",
        "non_finite.check_step",
        "averaging.average",
        "evaluation.evaluate",
        "metrics.log",
        "samples.write_keys",
        "progress.show",
        "checkpoints.save_if_due",
        "stopping.stop_if_agreed",
        "watchdog.at",
    ]


def test_the_parts_get_the_step_as_it_counts_from_one(
    step_end: StepEnd, spies: Mock, trainer: Any, module: Any
) -> None:
    step_end.on_train_batch_end(trainer, module, None, BATCH, 0)  # type: ignore[arg-type]
    spies.agreement.agree.assert_called_once_with(trainer, pairs=len(BATCH))
    spies.averaging.average.assert_called_once_with(module, step=STEP)
    spies.samples.write_keys.assert_called_once_with(BATCH, step=STEP)
    spies.progress.show.assert_called_once_with(step=STEP)
    spies.watchdog.at.assert_called_once_with("waiting for data", STEP + 1)


def test_the_start_of_training_reaches_the_parts(
    step_end: StepEnd, spies: Mock, trainer: Any, module: Any
) -> None:
    step_end.setup(trainer, module, "fit")
    step_end.on_train_start(trainer, module)
    assert calls(spies) == [
        "throughput.setup",
        "evaluation.setup",
        "watchdog.group_formed",
        "agreement.agree",
        "throughput.start",
        "non_finite.start",
        "averaging.start",
        "metrics.start",
        "samples.start",
        "progress.start",
        "stopping.start",
        "watchdog.at",
    ]


def test_a_step_tells_the_watchdog_where_it_is(
    step_end: StepEnd, spies: Mock, trainer: Any, module: Any
) -> None:
    step_end.on_train_start(trainer, module)
    spies.reset_mock()
    step_end.on_train_batch_start(trainer, module, BATCH, 0)  # type: ignore[arg-type]
    module.model(torch.zeros(1))
    step_end.on_before_backward(trainer, module, torch.zeros(()))
    step_end.on_before_optimizer_step(trainer, module, Mock())
    assert calls(spies) == [
        "throughput.begin_step",
        "non_finite.begin_step",
        "samples.draw_first",
        "watchdog.at",
        "watchdog.pass_done",
        "watchdog.at",
        "non_finite.check_gradient",
    ]
    assert [spied.args for spied in spies.watchdog.at.mock_calls] == [
        ("forward pass", STEP + 1),
        ("backward pass",),
    ]


def test_the_end_of_training_reaches_the_parts(
    step_end: StepEnd, spies: Mock, trainer: Any, module: Any
) -> None:
    step_end.on_train_end(trainer, module)
    assert calls(spies) == [
        "metrics.finish",
        "progress.close",
        "checkpoints.save",
        "checkpoints.finish",
        "stopping.end",
    ]


def test_an_error_reaches_the_parts_even_before_there_is_a_module(
    step_end: StepEnd, spies: Mock, trainer: Any
) -> None:
    error = Stopped("", signal=15)
    step_end.on_exception(trainer, None, error)  # type: ignore[arg-type]
    assert calls(spies) == ["progress.close", "checkpoints.settle", "stopping.end_by"]
    spies.stopping.end_by.assert_called_once_with(error)


def test_checkpoints_carry_the_average(
    step_end: StepEnd, spies: Mock, trainer: Any, module: Any
) -> None:
    checkpoint: dict[str, Any] = {}
    step_end.on_save_checkpoint(trainer, module, checkpoint)
    step_end.on_load_checkpoint(trainer, module, checkpoint)
    spies.averaging.save.assert_called_once_with(module, checkpoint, keep=True)
    spies.averaging.load.assert_called_once_with(module, checkpoint)
