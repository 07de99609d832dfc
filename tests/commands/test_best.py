"""Whole runs that keep their best step, save by the clock and end early; killed and left alone."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from align_train.run.folder import RunFolder
from tests.support.commands import finish, run, start
from tests.support.runs import metrics, numbers, wait_for_step

pytestmark = pytest.mark.long

# Step 4 is no number, 10 equals 6, and the last step's evaluation counts too.
SCRIPT = {"2": 0.25, "4": "nan", "6": 0.75, "8": 0.5, "10": 0.75, "12": 0.5}
# Before an evaluation, between two evaluators, between file and link, and in the last evaluation.
WRITTEN = json.dumps(SCRIPT)
KILLS = {"2": "link", "4": "before", "6": "link", "8": "torn", "10": "torn", "12": "torn"}

COMPARED = ("evaluate_every=2", "checkpoint_every=3", "keep_best=scripted/value", "eval=pairs")


def options(small_run: tuple[str, ...], name: str, *more: str) -> tuple[str, ...]:
    """The later evaluator's kills come when the earlier one's values are written."""
    scripted = "_target_:tests.support.scripted.Scripted,folder:${output_dir}/${name}"
    return (
        *small_run,
        *COMPARED,
        f"name={name}",
        f"+eval.scripted={{{scripted}}}",
        f"+eval.scripted_later={{{scripted},kills:true}}",
        *more,
    )


def best_of(folder: RunFolder) -> tuple[Any, str, dict[str, torch.Tensor]]:
    state = torch.load(folder.checkpoints / "best", weights_only=True)
    return (
        json.loads(folder.best.read_text()),
        os.readlink(folder.checkpoints / "best"),
        state["state_dict"] | state.get("ema", {}),
    )


def assert_same_best(ours: RunFolder, theirs: RunFolder) -> None:
    (content, name, weights), (content_, name_, weights_) = best_of(ours), best_of(theirs)
    assert (content, name) == (content_, name_)
    assert weights.keys() == weights_.keys()
    assert all(torch.equal(weights[key], weights_[key]) for key in weights)


def until_done(arguments: tuple[str, ...], cwd: Path, *, kills: str) -> tuple[int, str]:
    """The same command again and again: how often it was killed, and what it said last."""
    for killed in range(20):
        done = finish(start(*arguments, cwd=cwd, SCRIPT=WRITTEN, KILLS=kills))
        if done.returncode == 0:
            return killed, done.stdout
        assert "Traceback" not in done.stderr, done.stderr
    raise AssertionError(f"killed too often\n{done.stderr}")


def test_killed_around_each_evaluation_a_run_has_the_same_losses_and_the_same_best(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    out = run(*options(small_run, "alone", "ema=0.5"), cwd=tmp_path, SCRIPT=WRITTEN).stdout
    alone = RunFolder(tmp_path / "outputs" / "alone")
    assert "the highest scripted/value is kept, evaluated every 2 steps" in out
    assert f"{alone.path}: the best of 6 evaluations: step 6, scripted/value 0.7500" in out
    content, name, _ = best_of(alone)
    assert (content["step"], content["value"], name) == (6, 0.75, "step-00000006.ckpt")
    assert content["evaluated"]["4"] is None and content["evaluated"]["12"] == 0.5

    arguments = options(small_run, "killed", "ema=0.5")
    kills, out = until_done(arguments, tmp_path, kills=json.dumps(KILLS))
    assert kills == len(KILLS)
    killed = RunFolder(tmp_path / "outputs" / "killed")
    assert numbers(killed.path) == numbers(alone.path)
    values = [[row["scripted/value"] for row in metrics(run.path)] for run in (killed, alone)]
    assert values[0] == values[1]
    assert_same_best(killed, alone)
    assert "finished at step 12 of 12" in out and "step 6, scripted/value 0.7500" in out


def test_two_ranks_save_by_one_clock_and_are_killed(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    """The clock alone decides on checkpoints; the best is the same as on one rank."""
    clock = ("checkpoint_every=1000", "checkpoint_minutes=1e-6", "background_checkpoints=false")
    arguments = options(small_run, "two", "trainer.devices=2", *clock)
    process = start(*arguments, cwd=tmp_path, SCRIPT=WRITTEN)
    folder = RunFolder(tmp_path / "outputs" / "two")
    wait_for_step(7, folder, process)
    os.killpg(process.pid, signal.SIGKILL)
    assert "every 1,000 steps, and 1e-06 min after the last one" in finish(process).stdout
    # Every step: evaluations would save the even ones alone.
    last = folder.last_step()
    assert last >= 6 and folder.checkpoint_of(last - 1).exists()

    until_done(arguments, tmp_path, kills='{"8": "torn"}')
    content, name, _ = best_of(folder)
    assert (content["step"], name) == (6, "step-00000006.ckpt")
    assert [row["step"] for row in metrics(folder.path)] == [str(step) for step in range(1, 13)]


def test_a_run_without_a_better_step_ends_early_and_a_longer_patience_goes_on(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    patient = options(small_run, "early", "stop_patience=2", "trainer.devices=2")
    out = run(*patient, cwd=tmp_path, SCRIPT=WRITTEN).stdout
    folder = RunFolder(tmp_path / "outputs" / "early")
    why = "as 2 evaluations have found nothing better than step 6, scripted/value 0.7500"
    assert f"trained to step 10, {why}" in out
    assert json.loads(folder.results.read_text())["step"] == 10
    assert metrics(folder.path)[-1]["step"] == "10"

    again = run(*patient, cwd=tmp_path, SCRIPT=WRITTEN).stdout
    assert f"finished at step 10, {why}; go on with stop_patience=…" in again
    assert folder.last_step() == 10

    # Bitwise as a run that had that patience from the beginning.
    longer = options(small_run, "early", "stop_patience=3", "trainer.devices=1")
    out = run(*longer, cwd=tmp_path, SCRIPT=WRITTEN).stdout
    assert "stop_patience: 2 -> 3" in out and "trained to step 12" in out
    assert folder.last_step() == 12
    assert best_of(folder)[1] == "step-00000006.ckpt"


def test_an_absent_metric_ends_the_run_at_its_first_evaluation(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    """Its evaluator names no metrics in advance. Mended, the run evaluates that step again."""
    arguments = options(small_run, "absent", "keep_best=scripted/values")
    done = finish(start(*arguments, cwd=tmp_path, SCRIPT=WRITTEN))
    assert (done.returncode, done.stderr.count("align_train: ")) == (2, 1), done.stderr
    assert "keep_best=scripted/values: the evaluation gave no such metric; there are" in done.stderr
    assert "scripted/value" in done.stderr and "step 2 is saved" in done.stderr

    run(*options(small_run, "absent"), cwd=tmp_path, SCRIPT=WRITTEN)
    folder = RunFolder(tmp_path / "outputs" / "absent")
    assert best_of(folder)[0]["evaluated"]["2"] == 0.25
