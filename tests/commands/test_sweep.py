"""Sweeps: one command trains several runs, a benchmark lays them side by side."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.support.commands import NO_COMPOSED, finish, run, start


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
    again = run(*command, cwd=tmp_path).stdout
    assert again.count("finished at step 3 of 3") == 2 and "trained to step" not in again


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


def test_a_sweep_is_of_single_processes(small_run: tuple[str, ...], tmp_path: Path) -> None:
    done = finish(start(*small_run, "experiment=noise_scaling", "trainer.devices=2", cwd=tmp_path))
    assert (
        done.returncode == 2
        and "a sweep trains its runs on one process each, here are 2" in done.stderr
    )
