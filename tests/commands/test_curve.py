"""The learning rate of a run that is extended: it never rises unasked, and `here` never leaps."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from align_train.commands.changes import changed_settings
from align_train.commands.curve import Curve, curve_of
from align_train.commands.length import with_length
from align_train.config.compose import compose_training
from align_train.config.saved import to_yaml
from align_train.config.schema import TrainSettings
from align_train.errors import UserError
from align_train.optim.schedules import START
from align_train.run.folder import RunFolder
from tests.support.commands import UNEVALUATED, finish, run, start
from tests.support.runs import metrics, numbers, wait_for_step

NO_DATA: Any = None  # lengths in steps need none


@pytest.fixture(scope="module")
def plain() -> TrainSettings:
    return compose_training("max_steps=100", "scheduler.warmup_steps=10")


class Run:
    """The files of a run, as its starts write them."""

    def __init__(self, path: Path, plain: TrainSettings) -> None:
        path.mkdir()
        self.folder = RunFolder(path)
        self.plain = plain
        self.data = NO_DATA
        self.starts(0)

    def starts(self, finished_steps: int, *, killed: str = "", **changes: Any) -> list[float]:
        """A start after so many steps; the factors of the rest of the run, after the present one.

        Args:
            finished_steps: Steps of the last checkpoint.
            killed: Between which files the start is killed.
            **changes: Of the settings; `scheduler` holds those of its node.
        """
        values = asdict(self.plain) | changes
        values["scheduler"] = self.plain.scheduler | changes.get("scheduler", {})
        settings = TrainSettings(**values)
        settings = with_length(settings, self.data)
        curve = curve_of(settings, self.data, self.folder, finished_steps)
        self._write(curve, settings, finished_steps, killed)
        last = settings.steps
        return [curve.schedule.factor(step, last) for step in range(finished_steps, last)]

    def _write(
        self, curve: Curve, settings: TrainSettings, finished_steps: int, killed: str
    ) -> None:
        """As `WriteSettings`, which `test_a_finished_run_goes_on_smoothly` runs."""
        changes = changed_settings(self.folder, settings, finished_steps)
        lineage = self.folder.lineage
        lineage.begin_stretch({"manifest": "m"}, step=finished_steps)
        if curve.anchor != START or lineage.schedule_at(finished_steps):
            lineage.begin_schedule(curve.anchor._asdict(), step=finished_steps)
        if killed == "before config.yaml":
            return
        self.folder.config.write_text(to_yaml(settings))
        if changes and not killed:
            lineage.note_changes(
                {key: list(pair) for key, pair in changes.items()}, step=finished_steps
            )


HERE, WHOLE = {"from": "here"}, {"from": "start"}


def test_here_rises_from_the_present_rate_and_spans_the_steps_that_are_left(
    tmp_path: Path, plain: TrainSettings
) -> None:
    extended = Run(tmp_path / "run", plain).starts(100, max_steps=200, scheduler=HERE)
    present = 1 / 90  # of step 100
    rising = [present + (1 - present) * n / 10 for n in range(1, 11)]
    falling = [(100 - n) / 90 for n in range(10, 100)]
    assert extended == pytest.approx(rising + falling, rel=1e-12)
    leaps = [b - a for a, b in itertools.pairwise([present, *extended])]
    assert max(map(abs, leaps)) < 0.1


def test_the_same_command_goes_on_along_the_same_curve_wherever_it_was_killed(
    tmp_path: Path, plain: TrainSettings
) -> None:
    longer: Any = {"max_steps": 200, "scheduler": HERE}
    whole = Run(tmp_path / "whole", plain).starts(100, **longer)
    for number, killed in enumerate(("before config.yaml", "before the changes")):
        run = Run(tmp_path / str(number), plain)
        run.starts(100, killed=killed, **longer)
        assert run.starts(100, **longer) == whole
        assert run.starts(120, **longer) == whole[20:]
        assert run.starts(199, **longer) == whole[99:]


def test_each_extension_begins_anew_also_at_another_step(
    tmp_path: Path, plain: TrainSettings
) -> None:
    run = Run(tmp_path / "run", plain)
    first = run.starts(100, max_steps=200, scheduler=HERE)
    second = run.starts(200, max_steps=250, scheduler=HERE)
    assert second[0] == pytest.approx(first[-1] + (1 - first[-1]) / 10)
    assert second[9:] == pytest.approx([1.0, *((50 - n) / 40 for n in range(10, 50))])

    # Thought better of it before its first checkpoint: the present rate is that of step 200.
    assert run.starts(200, max_steps=260, scheduler=HERE)[0] == second[0]
    # Back to an earlier checkpoint: the rate that step 50 really had.
    back = run.starts(50, max_steps=260, scheduler=HERE)
    assert back[0] == pytest.approx(51 / 90 + (1 - 51 / 90) / 10)


def test_a_run_that_is_sent_back_twice_still_knows_the_rates_that_it_had(
    tmp_path: Path, plain: TrainSettings
) -> None:
    run = Run(tmp_path / "run", plain)
    longer: Any = {"max_steps": 200, "scheduler": HERE}
    run.starts(100, **longer)
    run.starts(50, **longer)  # the same command, from an earlier checkpoint
    with pytest.raises(UserError, match=r"max_steps=200: the learning rate would leap"):
        run.starts(40, max_steps=200)
    assert run.starts(40) == [(100 - step) / 90 for step in range(40, 100)]


def test_a_beginning_that_is_taken_back_before_its_first_checkpoint_leaves_no_trace(
    tmp_path: Path, plain: TrainSettings
) -> None:
    run = Run(tmp_path / "run", plain)
    run.starts(50, max_steps=200, scheduler=HERE)
    whole = [(100 - step) / 90 for step in range(50, 100)]
    assert run.starts(50) == whole
    assert run.starts(60) == whole[10:]


def test_epochs_over_more_pairs_are_a_longer_run(tmp_path: Path, plain: TrainSettings) -> None:
    run = Run(tmp_path / "run", plain)
    run.folder.config.unlink()
    epochs: Any = {"max_steps": None, "epochs": 2}
    source = SimpleNamespace(epoch_pairs=50 * plain.batch_size)
    run.data = SimpleNamespace(stretch=SimpleNamespace(order=SimpleNamespace(sources=[source])))
    before = run.starts(0, **epochs)
    assert len(before) == 100
    source.epoch_pairs *= 2
    with pytest.raises(UserError, match=r"epochs=2: the learning rate would leap"):
        run.starts(60, **epochs)
    assert len(run.starts(60, **epochs, scheduler=HERE)) == 140


def test_a_smaller_batch_makes_a_length_in_pairs_longer(
    tmp_path: Path, plain: TrainSettings
) -> None:
    in_pairs = TrainSettings(**asdict(plain) | {"max_steps": None, "max_pairs": 12800})
    run = Run(tmp_path / "run", in_pairs)
    smaller: Any = {"batch_size": 64, "accept": ["batch_size"], "scheduler": {"batch_size": 64}}
    with pytest.raises(UserError, match=r"^batch_size=64: the learning rate would leap"):
        run.starts(50, **smaller)


def test_a_rise_that_nobody_asked_for_is_refused_with_both_rates_and_the_fix(
    tmp_path: Path, plain: TrainSettings
) -> None:
    run = Run(tmp_path / "run", plain)
    lr = plain.optimizer["lr"]
    words = (
        rf"max_steps=200: the learning rate would leap from {lr / 90:.3g} to {lr * 100 / 190:.3g} "
        "at step 101; scheduler.from=here .* scheduler.from=start"
    )
    with pytest.raises(UserError, match=words):
        run.starts(100, max_steps=200)
    with pytest.raises(UserError, match=r"max_pairs=25600: the learning rate would leap"):
        run.starts(60, max_steps=None, max_pairs=25600)
    with pytest.raises(UserError, match="scheduler=WarmupLinear: the learning rate would leap"):
        run.starts(50, scheduler={"final": 0.5})
    with pytest.raises(UserError, match=r"without a warm-up .* give scheduler.warmup_steps"):
        run.starts(100, max_steps=200, scheduler={**HERE, "warmup_steps": 0})

    # Within the warm-up, shorter, or the same again: no rise, so no question.
    assert run.starts(5, max_steps=200)[0] == 0.6
    assert run.starts(60, max_steps=80)[0] < 40 / 90
    taken = run.starts(80, max_steps=200, scheduler=WHOLE)
    assert taken[0] == pytest.approx(120 / 190)
    assert run.starts(90, max_steps=200) == taken[10:]


def test_a_stable_schedule_is_extended_before_its_decay_without_a_question(
    tmp_path: Path, plain: TrainSettings
) -> None:
    stable = {
        "_target_": "align_train.optim.WarmupStableDecay",
        "decay_steps": 20,
        "decay_pairs": None,
        "decay": "sqrt",
    }
    node = {**plain.scheduler, **stable}
    settings = TrainSettings(**{**asdict(plain), "scheduler": node})
    run = Run(tmp_path / "run", settings)
    assert run.starts(80, max_steps=200)[:100] == [1.0] * 100
    with pytest.raises(UserError, match="would leap"):
        run.starts(190, max_steps=300)


def test_another_batch_size_changes_no_curve_in_steps(tmp_path: Path, plain: TrainSettings) -> None:
    run = Run(tmp_path / "run", plain)
    before = run.starts(50)
    wider = {"batch_size": 256, "scheduler": {"batch_size": 256, **HERE}}
    with_accepted: Any = wider | {"accept": ["batch_size"]}
    assert run.starts(50, **with_accepted) == before


def test_a_finished_run_goes_on_smoothly(
    trained: Path, small_run: tuple[str, ...], tmp_path: Path
) -> None:
    """Twelve steps, then eight more; the metrics have the curve, the lineage where it began."""
    folder = tmp_path / "outputs" / "run"
    shutil.copytree(trained, folder, symlinks=True)
    on = (*small_run, *UNEVALUATED, "name=run", "max_steps=20", "evaluate_every=0")
    said = run(*on, "scheduler.warmup_steps=4", "scheduler.from=here", cwd=tmp_path)
    assert said.returncode == 0
    (line,) = [line for line in RunFolder(folder).lineage.read() if "schedule" in line]
    assert line == {"step": 12, "schedule": {"step": 12, "factor": 12 / 50}}
    rates = [float(row["lr"]) / 2e-3 for row in metrics(folder)]
    rising = [0.24 + 0.76 * n / 4 for n in range(1, 5)]
    assert rates[11:] == pytest.approx([0.24, *rising, 1.0, 0.75, 0.5, 0.25], rel=1e-12)


@pytest.mark.long
@pytest.mark.parametrize("shape", ["warmup_linear", "cosine", "warmup_stable_decay"])
def test_kills_change_no_step_of_an_extended_run(
    shape: str, small_run: tuple[str, ...], tmp_path: Path
) -> None:
    """Bitwise: extended and left alone, and extended and killed at three places."""
    plain = (
        *small_run,
        *UNEVALUATED,
        f"scheduler={shape}",
        "scheduler.warmup_steps=3",
        "checkpoint_every=2",
    )
    longer = (*plain, "max_steps=24", "scheduler.from=here")
    if shape == "warmup_stable_decay":
        longer, plain = ((*part, "scheduler.decay_steps=6") for part in (longer, plain))
    run(*plain, "name=alone", cwd=tmp_path)
    shutil.copytree(tmp_path / "outputs/alone", tmp_path / "outputs/killed", symlinks=True)
    run(*longer, "name=alone", cwd=tmp_path)

    killed = RunFolder(tmp_path / "outputs" / "killed")
    for step in (13, 16, 21):
        process = start(*longer, "name=killed", cwd=tmp_path)
        wait_for_step(step, killed, process)
        os.killpg(process.pid, signal.SIGKILL)
        finish(process)
    run(*longer, "name=killed", cwd=tmp_path)
    assert numbers(killed.path) == numbers(tmp_path / "outputs" / "alone")
    assert len(numbers(killed.path)) == 24
