"""Sweeps: one command trains several runs, a benchmark lays them side by side."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import pytest

from align_train.run.folder import RunFolder
from tests.support.commands import NO_COMPOSED, UNEVALUATED, finish, run, start
from tests.support.runs import wait_for_step


@pytest.mark.long
def test_a_sweep_by_one_command(small_run: tuple[str, ...], tmp_path: Path) -> None:
    """Two sizes; the command again trains nothing anew. The table is made from what lies there."""
    small = [
        option
        for option in small_run
        if not option.startswith(("data.make.pairs", "data.make.folder"))
    ]
    grid = "hydra.sweeper.params={data.make.pairs:'128,256',data.make.noise:'0.5'}"
    command = (*small, *NO_COMPOSED, "experiment=noise_scaling", grid, "max_steps=3")
    run(*command, cwd=tmp_path)
    run(module="benchmarks.noise_scaling", cwd=tmp_path)
    with (tmp_path / "outputs" / "noise_scaling.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head[1:] == ["50% noise"] and [row[0] for row in rows] == ["128", "256"]
    for row in rows:
        for noise, value in zip(["0.5"], row[1:], strict=True):
            results = json.loads(
                (
                    tmp_path / "outputs" / f"noise_scaling-{row[0]}-{noise}" / "results.json"
                ).read_text()
            )
            assert float(value) == round(results["zero_shot/top1"], 4)
    assert (tmp_path / "outputs" / "noise_scaling.png").is_file()
    assert run(*command, cwd=tmp_path).stdout.count(": done in ") == 2
    for pairs in ("128", "256"):
        log = (tmp_path / "outputs" / f"noise_scaling-{pairs}-0.5.log").read_text()
        assert log.count("trained to step 3") == log.count("finished at step 3 of 3") == 1


@pytest.mark.long
def test_runs_of_a_sweep_have_names_of_their_own(
    small_run: tuple[str, ...], tmp_path: Path
) -> None:
    options = (
        "experiment=noise_scaling",
        "name=same",
        "seed=0,1",
        "data.make.noise=0.0",
        "max_steps=1",
        "eval=pairs",
    )
    small = [option for option in small_run if not option.startswith("data.make.folder")]
    done = finish(start(*small, *options, cwd=tmp_path))
    assert done.returncode == 2 and "name=same: two runs of this sweep are called so" in done.stderr


def test_a_sweep_under_a_launcher_is_refused(small_run: tuple[str, ...], tmp_path: Path) -> None:
    environment = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}
    options = (*small_run, "-m", "name=a-${seed}", "seed=0,1")
    done = finish(start(*options, cwd=tmp_path, **environment))  # type: ignore[arg-type]
    assert done.returncode == 2
    assert "a sweep starts its runs itself, and here slurm has started all" in done.stderr


@pytest.mark.long
def test_a_run_that_fails_ends_no_sweep_and_a_signal_saves_the_one_at_work(
    small_run: tuple[str, ...], tmp_path: Path
) -> None:
    options = (*small_run, *UNEVALUATED, "-m", "name=a-${max_steps}", "max_skipped_steps=0")
    # The first is refused by its own process, which opens the tokenizer: that has 300 tokens.
    swept = ("model.vocabulary_size=7,400", "name=a-${model.vocabulary_size}")
    command = (*options, *swept, "max_steps=3")
    done = finish(start(*command, cwd=tmp_path, forked=False))
    assert "1 of 2 runs failed: a-7" in done.stderr and done.returncode == 2
    assert RunFolder(tmp_path / "outputs" / "a-400").last_step() == 3

    folder = RunFolder(tmp_path / "outputs" / "a-100000")
    sweep = start(*options, "max_steps=100000,3", cwd=tmp_path, forked=False)
    wait_for_step(5, folder, sweep, seconds=600)
    os.kill(sweep.pid, signal.SIGTERM)
    done = finish(sweep)
    assert done.returncode == 128 + signal.SIGTERM and "stopped by SIGTERM" in done.stderr
    assert folder.last_step() >= 5
    assert not (tmp_path / "outputs" / "a-3").exists()
