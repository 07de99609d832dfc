"""A run says what it will need, and at its end how far off that was."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from align_train.commands.plan_counts import model_without_memory
from align_train.commands.plan_hardware import hardware_of_file, hardware_of_name, measured_file
from align_train.commands.plan_measure import hardware_file
from align_train.commands.planned import Planned, Unplanned, planned_run
from align_train.config.compose import compose_training
from align_train.planning.measure import MeasuredRates, TimedOperators
from align_train.run.folder import RunFolder
from align_train.training.operators import ELEMENTWISE, MATMUL
from tests.support.commands import SMALL_MAKE, run

RUN = ("trainer=cpu", "model.image_size=32", "batch_size=32", "chunk_size=32", "norm_group=16")


@pytest.fixture(autouse=True)
def _nothing_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def planned(*overrides: str) -> Planned | None:
    settings = compose_training(*RUN, *overrides)
    found = planned_run(settings, model_without_memory(settings, 500), tokens=16)
    assert not isinstance(found, Unplanned)
    return found


def test_a_run_of_few_steps_is_planned_only_if_it_is_a_dry_run() -> None:
    assert planned("max_steps=20") is None
    assert planned("max_steps=20", "dry_run=true") is not None
    assert planned("max_steps=200") is not None


def test_without_rates_memory_is_planned_and_seconds_are_not() -> None:
    found = planned("max_steps=200")
    assert found is not None
    assert not found.has_rates
    assert "GB a process, most of it" in str(found)
    assert "measure=true makes its seconds known" in str(found)
    assert "s a step" not in str(found)


def test_a_run_is_compared_with_its_largest_memory_and_its_median_step(tmp_path: Path) -> None:
    found = planned("max_steps=200")
    assert found is not None
    folder = RunFolder(tmp_path)
    assert replace(found, has_rates=True).beside_run(folder) == ""

    rows = ["step,memory_gb,step_seconds", "10,9,9"]
    for step, memory, seconds in ((20, 1.0, 0.5), (30, 2.0, 0.1), (40, 1.5, 0.3)):
        rows.append(f"{step},{memory * found.memory},{seconds}")
    folder.metrics.write_text("\n".join(rows) + "\n")
    assert found.beside_run(folder).endswith("the plan is 50% too low")
    told = replace(found, has_rates=True).beside_run(folder)
    assert "measured 0.3:" in told


def test_a_machine_is_measured_into_a_file_that_plans_take(tmp_path: Path) -> None:
    device = torch.device("cpu")
    rates = MeasuredRates(device, bf16=False)
    weights = torch.ones(300, 300)
    rates.take_in(lambda: torch.relu(weights @ weights))
    shares = rates.shares()
    assert set(shares) == {MATMUL, ELEMENTWISE}
    assert all(0 < share <= 1 for share in shares.values())

    file = tmp_path / "here.yaml"
    file.write_text(hardware_file(rates, bf16=False))
    found = hardware_of_file(file)
    assert not found.is_gpu
    assert found.efficiency.matmul == pytest.approx(shares[MATMUL], rel=1e-3)
    assert found.fp32_tflops == pytest.approx(rates.peak / 1e12, rel=1e-3)
    assert measured_file(on_gpu=False, bf16=False) != measured_file(on_gpu=False, bf16=True)


def test_each_operator_has_its_time() -> None:
    with TimedOperators(torch.device("cpu")) as counter:
        torch.ones(100, 100) @ torch.ones(100, 100)
    assert len(counter.times) == counter.operators.total()
    assert all(seconds > 0 for _, seconds in counter.times)


def test_a_gpu_is_known_by_its_drivers_name() -> None:
    found = hardware_of_name("NVIDIA H100 80GB HBM3")
    assert found is not None
    assert found.memory_gb == 80
    assert hardware_of_name("a GPU of tomorrow") is None


@pytest.mark.long
def test_a_run_prints_its_plan_and_how_far_off_it_was(tmp_path: Path) -> None:
    done = run(*SMALL_MAKE, *RUN, "max_steps=120", "eval=pairs", cwd=tmp_path)
    plan = re.search(r"plan  ([\d.]+) GB a process, most of it", done.stdout)
    off = re.search(r"planned ([\d.]+) GB a process, measured ([\d.]+)", done.stdout)
    assert plan
    assert off
    assert float(off[1]) == float(plan[1])
    assert float(off[1]) == pytest.approx(float(off[2]), rel=0.25)
