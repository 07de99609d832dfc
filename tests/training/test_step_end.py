"""The order of a step's end, and that every hook of Lightning reaches the parts that need it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, create_autospec

import pytest
import torch
from lightning import Callback
from torch import nn

from align_train.cluster.watchdog import Watchdog
from align_train.errors import Stopped, UserError
from align_train.training.callbacks import (
    Agreement,
    Averaging,
    Best,
    Checkpoints,
    Evaluation,
    Metrics,
    NonFinite,
    Progress,
    Records,
    Samples,
    Stopping,
    Throughput,
)
from align_train.training.chunk_size import Chunking
from align_train.training.first_passes import compile_now, settle_chunking
from align_train.training.module import TrainingModule
from align_train.training.step_end import StepEnd
from tests.support.optimizers import PLAIN_ADAMW
from tests.support.parity import Case, fit

PARTS = {
    "agreement": Agreement,
    "throughput": Throughput,
    "non_finite": NonFinite,
    "averaging": Averaging,
    "evaluation": Evaluation,
    "best": Best,
    "metrics": Metrics,
    "samples": Samples,
    "records": Records,
    "progress": Progress,
    "checkpoints": Checkpoints,
    "stopping": Stopping,
    "watchdog": Watchdog,
}


class Three:
    """What the parts read of a batch."""

    blank = False

    def __len__(self) -> int:
        return 3


STEP = 7
BATCH = Three()
GROUP = 16


@pytest.fixture
def spies(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """One spy a part; a method that the part does not have, or not so, is an error."""
    together = Mock()
    for name, part in PARTS.items():
        together.attach_mock(create_autospec(part, instance=True), name)
    for function in (settle_chunking, compile_now):
        spy = create_autospec(function)
        together.attach_mock(spy.mock, function.__name__)
        monkeypatch.setattr(f"align_train.training.callbacks.attempts.{function.__name__}", spy)
    data = SimpleNamespace(batch_size=4 * GROUP, max_tokens=8, teardown=together.data_teardown)
    together.agreement.data = data
    together.agreement.agree.return_value = [0.5, 2.0]
    together.agreement.out_of_memory = 0
    together.agreement.without_data = 0
    together.best.lacks.return_value = False
    return together


@pytest.fixture
def step_end(spies: Mock) -> StepEnd:
    return StepEnd(**{name: getattr(spies, name) for name in PARTS})


@pytest.fixture
def trainer() -> Any:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(global_step=STEP, is_global_zero=True, strategy=strategy, world_size=2)


@pytest.fixture
def module(spies: Mock) -> Any:
    chunking = Chunking(norm_group=GROUP, chunk_size=2 * GROUP, recompute=False, pairs=2 * GROUP)
    spy = create_autospec(TrainingModule, instance=True)
    spies.attach_mock(spy, "module")
    spy.configure_mock(
        model=nn.Identity(), chunking=chunking, out_of_memory=False, distillation=None
    )
    return spy


def calls(spies: Mock) -> list[str]:
    return [name for name, _, _ in spies.mock_calls]


def test_the_end_of_a_step_calls_the_parts_in_this_order(
    step_end: StepEnd, spies: Mock, trainer: Any, module: Any
) -> None:
    step_end.on_train_batch_end(trainer, module, None, BATCH, 0)  # type: ignore[arg-type]
    assert calls(spies) == [
        "throughput.measure",
        "non_finite.check_step",
        "averaging.average",
        "evaluation.is_due",
        "metrics.log",
        "samples.record_keys",
        "records.write_if_due",
        "progress.show",
        "checkpoints.save_if_due",
        "evaluation.evaluate",
        "best.consider",
        "stopping.stop_if_agreed",
        "watchdog.at",
    ]


def test_the_parts_get_the_step_as_it_counts_from_one(
    step_end: StepEnd, spies: Mock, trainer: Any, module: Any
) -> None:
    step_end.on_train_batch_end(trainer, module, None, BATCH, 0)  # type: ignore[arg-type]
    spies.throughput.measure.assert_called_once_with(BATCH, 2 * GROUP)
    spies.averaging.average.assert_called_once_with(module, step=STEP)
    due = spies.evaluation.is_due.return_value
    spies.metrics.log.assert_called_once_with(trainer, module, evaluated=due)
    spies.checkpoints.save_if_due.assert_called_once_with(trainer, module, evaluated=due)
    spies.samples.record_keys.assert_called_once_with(BATCH, step=STEP)
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
        "averaging.start",
        "settle_chunking",
        "compile_now",
        "watchdog.at",
        "agreement.agree",
        "throughput.start",
        "non_finite.start",
        "metrics.start",
        "samples.start",
        "progress.start",
        "checkpoints.start",
        "best.start",
        "stopping.start",
        "evaluation.is_due",
        "best.lacks",
        "watchdog.at",
    ]
    spies.settle_chunking.assert_called_once_with(
        module, pairs=2 * GROUP, batch_size=4 * GROUP, max_tokens=8, at=spies.watchdog.at
    )
    spies.compile_now.assert_called_once_with(module, max_tokens=8, at=spies.watchdog.at)


def test_a_start_evaluates_its_first_step_if_that_was_cut_short(
    step_end: StepEnd, spies: Mock, trainer: Any, module: Any
) -> None:
    spies.best.lacks.return_value = True
    step_end.on_train_start(trainer, module)
    assert calls(spies)[-6:] == [
        "evaluation.is_due",
        "best.lacks",
        "evaluation.evaluate",
        "best.consider",
        "stopping.stop_if_agreed",
        "watchdog.at",
    ]
    spies.best.lacks.assert_called_once_with(trainer, due=spies.evaluation.is_due.return_value)
    spies.best.consider.assert_called_once_with(trainer, spies.evaluation.evaluate.return_value)


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


def test_ranks_agree_on_what_a_backward_pass_has_shown(
    step_end: StepEnd, spies: Mock, trainer: Any, module: Any
) -> None:
    step_end.on_train_start(trainer, module)
    step_end.on_train_batch_start(trainer, module, BATCH, 0)  # type: ignore[arg-type]
    spies.reset_mock()
    assert not module.agree()
    assert calls(spies) == ["module.measured", "agreement.agree", "module.take_measured"]
    spies.agreement.agree.assert_called_once_with(
        trainer,
        step=STEP + 1,
        pairs=len(BATCH),
        values=module.measured.return_value,
        out_of_memory=False,
        blank=False,
    )
    module.take_measured.assert_called_once_with([0.5, 2.0])


def test_a_step_without_enough_memory_is_made_again(
    step_end: StepEnd,
    spies: Mock,
    trainer: Any,
    module: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step_end.on_train_start(trainer, module)
    spies.reset_mock()
    spies.agreement.out_of_memory = 1
    assert module.agree()
    spies.watchdog.at.assert_called_once_with("forward pass", STEP + 1)
    assert module.chunking.of_step == GROUP
    assert "step 8: out of memory on 1 of 2 ranks" in capsys.readouterr().out

    with pytest.raises(UserError, match="step 8: out of memory with the smallest chunk"):
        module.agree()


def test_a_step_without_data_is_left_before_anything_is_taken_from_it(
    step_end: StepEnd, spies: Mock, trainer: Any, module: Any
) -> None:
    step_end.on_train_start(trainer, module)
    blank = Three()
    blank.blank = True
    step_end.on_train_batch_start(trainer, module, blank, 0)  # type: ignore[arg-type]
    spies.samples.draw_first.assert_not_called()

    spies.reset_mock()
    spies.agreement.without_data = 1
    spies.stopping.leave_step.side_effect = Stopped("", signal=15)
    with pytest.raises(Stopped):
        module.agree()
    assert spies.agreement.agree.mock_calls[0].kwargs["blank"]
    assert calls(spies) == ["module.measured", "agreement.agree", "stopping.leave_step"]


class Order(Callback):
    """The hooks of a step in the order in which Lightning calls them, and the agreement."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_train_start(self, trainer: Any, module: Any) -> None:
        module.agree = self.agree

    def agree(self) -> bool:
        self.seen.append("agree")
        return self.seen.count("agree") == 1  # the first step is made again

    def on_train_batch_start(self, *_: object) -> None:
        self.seen.append("begin")

    def on_before_backward(self, *_: object) -> None:
        self.seen.append("forward")

    def on_after_backward(self, *_: object) -> None:
        self.seen.append("backward")

    def on_before_optimizer_step(self, *_: object) -> None:
        self.seen.append("before the step")

    def on_train_batch_end(self, *_: object) -> None:
        self.seen.append("end")


def test_ranks_agree_between_each_backward_pass_and_the_step() -> None:
    order = Order()
    fit(Case("ddp", 1, pairs=12), order, end=2)
    attempt = ["forward", "backward", "agree"]
    last = ["before the step", "end"]
    assert order.seen == ["begin", *attempt, *attempt, *last, "begin", *attempt, *last]


def test_the_end_of_training_reaches_the_parts(
    step_end: StepEnd, spies: Mock, trainer: Any, module: Any
) -> None:
    step_end.on_train_end(trainer, module)
    assert calls(spies) == [
        "watchdog.at",
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
    assert calls(spies) == [
        "progress.close",
        "checkpoints.settle",
        "stopping.end",
        "data_teardown",
    ]


def test_checkpoints_carry_the_average(
    step_end: StepEnd, spies: Mock, trainer: Any, module: Any
) -> None:
    module.optimizer_recipe = PLAIN_ADAMW
    checkpoint: dict[str, Any] = {}
    step_end.on_save_checkpoint(trainer, module, checkpoint)
    step_end.on_load_checkpoint(trainer, module, checkpoint)
    spies.averaging.save.assert_called_once_with(module, checkpoint, keep=True)
    spies.averaging.load.assert_called_once_with(module, checkpoint)
    assert checkpoint == {"moments_of": "Adam"}
