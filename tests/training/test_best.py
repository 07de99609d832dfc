"""The best evaluated step stays, with its value, whatever interrupts the comparison."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from align_train.config.keeping import check_keep_best, check_keeping
from align_train.errors import UserError
from align_train.run.best import Evaluated, higher_is_better, read_evaluated
from align_train.run.folder import RunFolder
from align_train.training.callbacks import Agreement, Best, Checkpoints, Records
from tests.support.settings import composed

METRIC = "retrieval/image_to_text/recall@1"
NAN = float("nan")
# The best is 3: 2 is not a number, 4 equals 3, and 5 is worse.
VALUES = {1: 0.5, 2: NAN, 3: 0.75, 4: 0.75, 5: 0.25}


class Killed(BaseException):
    """In place of a SIGKILL: nothing that catches errors catches it."""


def folder_of(path: Path, steps: int) -> RunFolder:
    folder = RunFolder(path)
    folder.checkpoints.mkdir(parents=True)
    for step in range(1, steps + 1):
        folder.checkpoint_of(step).write_text(str(step))
    return folder


def evaluated(values: dict[int, float], *, higher: bool = True) -> Evaluated:
    return Evaluated(METRIC, higher, values)


def test_the_first_of_equal_values_is_the_best_and_no_number_never_is() -> None:
    assert evaluated(VALUES).best_step == 3
    assert evaluated(VALUES).since_best == 2
    assert evaluated(VALUES, higher=False).best_step == 5
    assert evaluated({1: NAN, 2: math.inf}).best_step is None
    assert evaluated({1: NAN, 2: NAN}).since_best == 2
    assert evaluated({3: 0.5}).with_value(3, 0.9).values == {3: 0.5}
    assert list(evaluated({3: 0.5}).with_value(1, 0.9).values) == [1, 3]


def test_losses_and_ranks_are_better_the_lower_they_are() -> None:
    for name in ("held_out/loss", "retrieval/text_to_image/median_rank"):
        assert not higher_is_better(name, None)
        assert higher_is_better(name, "higher")
    assert higher_is_better(METRIC, None)
    assert not higher_is_better(METRIC, "lower")


def test_a_kill_between_any_two_writes_leaves_a_best_with_its_right_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each evaluation is killed at each of its renames, and then made again."""
    real = os.replace
    for killed_at in range(8):
        folder = folder_of(tmp_path / str(killed_at), 5)
        left = killed_at

        def rename(*names: Any) -> None:
            nonlocal left
            left -= 1
            if left == -1:
                raise Killed
            real(*names)

        monkeypatch.setattr(os, "replace", rename)
        step = 1
        while step <= 5:
            now = read_evaluated(folder, METRIC, higher=True).until(step, folder)
            try:
                now.link(folder)
                now.with_value(step, VALUES[step]).write(folder)
                step += 1
            except Killed:
                pass

            known = read_evaluated(folder, METRIC, higher=True)
            named = folder.best_checkpoint()
            if named is None:
                assert known.best_step in (None, 1)
            else:
                # The link may be one evaluation late; its value is in the file all the same.
                assert known.values[int(named.read_text())] == VALUES[int(named.read_text())]

        content = json.loads(folder.best.read_text())
        assert (content["step"], content["value"]) == (3, 0.75)
        assert content["evaluated"] == {"1": 0.5, "2": None, "3": 0.75, "4": 0.75, "5": 0.25}
        assert os.readlink(folder.checkpoints / "best") == "step-00000003.ckpt"


def test_a_run_that_goes_back_compares_as_if_it_had_never_been_further(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 5)
    evaluated(VALUES).write(folder)
    known = read_evaluated(folder, METRIC, higher=True)
    assert known.until(2, folder).best_step == 1
    # By hand, to a step from which the best checkpoint is gone: the next best counts.
    folder.checkpoint_of(3).unlink()
    assert known.until(5, folder).best_step == 4
    # Another metric, or the other direction, begins anew.
    assert not read_evaluated(folder, METRIC, higher=False).values
    assert not read_evaluated(folder, "held_out/loss", higher=True).values
    folder.best.write_text("{")
    with pytest.raises(UserError, match=r"best\.json: cannot be read .* remove it to compare anew"):
        read_evaluated(folder, METRIC, higher=True)


class Trainer(SimpleNamespace):
    """As much of Lightning's trainer as saving takes."""

    def save_checkpoint(self, path: Path) -> None:
        self.checkpoints.gathered.save_checkpoint({"global_step": self.global_step}, path)


def saving(folder: RunFolder, **options: Any) -> tuple[Checkpoints, Trainer]:
    """Checkpoints that are really written, and a trainer at step 0."""
    agreement = Agreement(folder=folder, data=None)  # type: ignore[arg-type]
    checkpoints = Checkpoints(
        folder=folder,
        agreement=agreement,
        records=Records(every=1),
        at=lambda place: None,
        **{"every": 1000} | options,
    )
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = Trainer(
        global_step=0,
        is_global_zero=True,
        should_stop=False,
        strategy=strategy,
        lightning_module=torch.nn.Linear(1, 1),
        checkpoints=checkpoints,
    )
    return checkpoints, trainer


def best_of(checkpoints: Checkpoints, *, patience: int | None = None) -> Best:
    return Best(
        folder=checkpoints.folder,
        metric=METRIC,
        higher=True,
        patience=patience,
        checkpoints=checkpoints,
    )


def test_the_best_checkpoint_outlives_those_that_are_dropped(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 0)
    checkpoints, trainer = saving(folder, keep=2)
    best = best_of(checkpoints)
    best.start(trainer)  # type: ignore[arg-type]
    for step, value in VALUES.items():
        trainer.global_step = step
        checkpoints.save(trainer)  # type: ignore[arg-type]
        best.consider(trainer, {METRIC: value, "loss": 0.0})  # type: ignore[arg-type]
    checkpoints.finish(trainer)  # type: ignore[arg-type]

    names = sorted(path.name for path in folder.checkpoints.glob("*.ckpt"))
    assert names == [f"step-0000000{step}.ckpt" for step in (3, 4, 5)]
    kept = torch.load(folder.checkpoints / "best", weights_only=True)
    assert kept["global_step"] == 3

    # The next start knows what was evaluated.
    again = best_of(checkpoints)
    again.start(trainer)  # type: ignore[arg-type]
    assert not again.lacks(trainer, due=True)  # type: ignore[arg-type]
    trainer.global_step = 6
    assert again.lacks(trainer, due=True)  # type: ignore[arg-type]
    assert not again.lacks(trainer, due=False)  # type: ignore[arg-type]


def test_a_checkpoint_that_could_not_be_written_is_never_the_best(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1)
    checkpoints, trainer = saving(folder)
    best = best_of(checkpoints)
    best.start(trainer)  # type: ignore[arg-type]
    trainer.global_step = 1
    best.consider(trainer, {METRIC: 0.5})  # type: ignore[arg-type]
    trainer.global_step = 2
    best.consider(trainer, {METRIC: 0.9})  # type: ignore[arg-type]
    assert os.readlink(folder.checkpoints / "best") == "step-00000001.ckpt"
    assert list(read_evaluated(folder, METRIC, higher=True).values) == [1]


def test_a_run_ends_after_its_patience_and_an_absent_metric_ends_it_in_one_line(
    tmp_path: Path,
) -> None:
    folder = folder_of(tmp_path, 5)
    checkpoints, trainer = saving(folder)
    best = best_of(checkpoints, patience=2)
    best.start(trainer)  # type: ignore[arg-type]
    ended = []
    for step, value in VALUES.items():
        trainer.global_step = step
        best.consider(trainer, {METRIC: value})  # type: ignore[arg-type]
        best.consider(trainer, None)  # type: ignore[arg-type]
        ended.append(trainer.should_stop)
    assert ended == [False, False, False, False, True]

    best.consider(trainer, {"held_out/loss": 1.0})  # type: ignore[arg-type]
    assert str(checkpoints.agreement.error) == (
        f"keep_best={METRIC}: the evaluation gave no such metric; there are held_out/loss"
    )


def test_minutes_count_from_the_last_checkpoint_and_not_while_one_is_written(
    tmp_path: Path,
) -> None:
    """By a clock that the test moves; `every` steps still count."""
    now = 1000.0
    checkpoints, trainer = saving(
        folder_of(tmp_path, 0), every=5, minutes=2.0, clock=lambda: now, background=False
    )
    checkpoints.start(trainer)  # type: ignore[arg-type]
    saved = []
    for step in range(1, 13):
        now += 50
        trainer.global_step = step
        # In training the ranks agree on it between the backward pass and the step.
        checkpoints.agreement.saves = checkpoints.agreement.save_is_due()
        checkpoints.save_if_due(trainer, SimpleNamespace(loss_value=0.0))  # type: ignore[arg-type]
        if checkpoints.saved_step == step:
            saved.append(step)
    assert saved == [3, 5, 8, 10]  # 150 s after each other, and every fifth step
    now += 1e6
    assert checkpoints.agreement.save_is_due()
    checkpoints._writing = SimpleNamespace(done=lambda: False)  # type: ignore[assignment]
    assert not checkpoints.agreement.save_is_due()


def test_what_cannot_be_compared_is_refused_in_one_line() -> None:
    settings = composed("data=demo", "eval=pairs", "evaluate_every=10")
    check_keeping(replace(settings, keep_best=METRIC, stop_patience=3, best_is="lower"))
    wrong: dict[str, dict[str, Any]] = {
        r"checkpoint_minutes=0: expected more than 0": {"checkpoint_minutes": 0.0},
        r"checkpoint_minutes=nan": {"checkpoint_minutes": NAN},
        r"best_is=more: expected higher or lower": {"keep_best": METRIC, "best_is": "more"},
        r"stop_patience=0: expected at least 1": {"keep_best": METRIC, "stop_patience": 0},
        r"stop_patience=3: keep_best is not set": {"stop_patience": 3},
        r"best_is=lower: keep_best is not set": {"best_is": "lower"},
        r"evaluate_every=0 evaluates the last step alone": {
            "keep_best": METRIC,
            "evaluate_every": 0,
        },
    }
    for words, changes in wrong.items():
        with pytest.raises(UserError, match=words):
            check_keeping(replace(settings, **changes))

    check_keep_best(replace(settings, keep_best=METRIC))
    for metric in ("retrieval/image_to_text/recall@3", "loss", "knn/top1"):
        with pytest.raises(UserError, match=f"keep_best={metric}: no such metric here"):
            check_keep_best(replace(settings, keep_best=metric))
