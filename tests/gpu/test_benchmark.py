"""`python -m benchmarks.gpu`: every part runs; a row that ends badly costs no other one."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from align_train.config.check import check
from align_train.config.compose import compose_training
from benchmarks.gpu import data, demo, kernels, runs, setup, towers, trace
from benchmarks.gpu.__main__ import PartRun, measure, parts_of
from benchmarks.gpu.parts import SHARES, Options
from benchmarks.gpu.report import Report
from tests.support.commands import finish, run, start

BAD = "tests.support.bad_part"


def measured_parts(folder: Path) -> dict[str, str]:
    """The status of each part that has a file in a folder."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        found[content["part"]] = content["status"]
        assert content["rows"]
        assert content["command"].startswith("python -m benchmarks.gpu")
    return found


def test_a_row_that_ends_badly_costs_no_other_one(tmp_path: Path) -> None:
    options = Options(device="cuda", tiny=True, folder=tmp_path, log=tmp_path / "log")
    found = PartRun(BAD, options, Report(tmp_path, "cuda"), seconds=100).run()

    statuses = {row: outcome.status for row, outcome in found.items()}
    assert statuses == {
        "good": "ok",
        "raises": "failed",
        "dies": "failed",
        "hangs": "failed",
        "skipped": "skipped",
        "beyond": "failed",
        "last": "ok",
    }
    assert found["raises"].error == "ValueError: one"
    assert "signal 9" in found["dies"].error
    assert "the last words of a process" in found["dies"].error
    assert found["hangs"].error.startswith("took longer than 2 s")
    assert found["skipped"].error == "not installed"

    # A process goes on until a row ends badly; later rows know what earlier ones have found.
    assert found["last"].figures["process"] == found["beyond"].figures["process"]
    assert found["last"].figures["process"] != found["good"].figures["process"]
    assert found["last"].figures["earlier"] == 2

    page = (tmp_path / "gpu.md").read_text()
    assert "| dies" in page
    assert "the last words of a process" in page


def test_rows_for_which_there_is_no_time_are_told(tmp_path: Path) -> None:
    options = Options(device="cuda", tiny=True, folder=tmp_path, log=tmp_path / "log")
    assert measure(["machine", "loss"], options, minutes=0) == {
        "machine": "no time",
        "loss": "no time",
    }
    assert measured_parts(tmp_path) == {"machine": "no time", "loss": "no time"}


def test_parts_come_in_the_order_of_their_worth() -> None:
    assert parts_of("") == list(SHARES)
    assert parts_of("loss,machine") == ["machine", "loss"]
    with pytest.raises(SystemExit, match="no part los; there are machine, runs"):
        parts_of("los")


def test_a_trace_is_read_as_the_profiler_writes_it() -> None:
    """Two kernels overlap; the runtime's own events and the waits are no work of the device."""
    events: list[dict[str, Any]] = [
        {"ph": "X", "cat": "kernel", "name": "conv", "ts": 100.0, "dur": 50.0},
        {"ph": "X", "cat": "kernel", "name": "conv", "ts": 120.0, "dur": 50.0},
        {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy HtoD", "ts": 300.0, "dur": 30.0},
        {"ph": "X", "cat": "kernel", "name": "a|b", "ts": 400.0, "dur": 10.0},
        {"ph": "X", "cat": "gpu_user_annotation", "name": "step", "ts": 0.0, "dur": 1000.0},
        {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 90.0, "dur": 5.0},
        {"ph": "X", "cat": "cuda_runtime", "name": "cudaStreamSynchronize", "ts": 9.0, "dur": 5.0},
        {"ph": "X", "cat": "cuda_runtime", "name": "cudaDeviceSynchronize", "ts": 9.0, "dur": 5.0},
        {"ph": "M", "name": "process_name", "args": {"name": "python"}},
    ]
    found = trace.trace_of(events)

    assert found.launches == {"conv": 2, "a|b": 1}
    assert found.busy == pytest.approx(110e-6)
    figures = found.figures(step_seconds=220e-6)
    assert figures == {"launches": 3, "waits": 1, "idle": pytest.approx(0.5)}
    assert found.table()[1:] == [
        ["`conv`", "2", "0.10", "90.9%"],
        ["`a/b`", "1", "0.01", "9.1%"],
    ]


def test_the_profiler_is_started_stopped_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the CPU's activities in place of a GPU's: there are none of its kernels."""
    monkeypatch.setattr(trace, "wait_for", lambda device: None)
    monkeypatch.setattr(trace, "_ACTIVITIES", [torch.profiler.ProfilerActivity.CPU])
    with trace.traced("cuda") as found:
        torch.ones(3).sum()
    assert found[0] == trace.Trace(waits=0, busy=0.0)
    assert found[0].figures(step_seconds=1.0) == {"launches": None, "waits": 0, "idle": None}

    # No counters for this user, say: the row keeps what the clock has measured.
    def refuse(**_: object) -> None:
        raise RuntimeError("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES")

    monkeypatch.setattr(torch.profiler, "profile", refuse)
    with trace.traced("cuda") as found:
        torch.ones(3).sum()
    assert found == [trace.Trace()]


@pytest.mark.long
def test_whole_steps_are_measured_and_leave_no_model_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next row of the process would find less memory, and a smaller chunk."""
    from align_train.training.module import TrainingModule

    models: list[weakref.ref[object]] = []
    init = TrainingModule.__init__

    def noting(module: TrainingModule, **parts: Any) -> None:
        models.append(weakref.ref(parts["model"]))
        init(module, **parts)

    monkeypatch.setattr(TrainingModule, "__init__", noting)
    options = Options(device="cpu", tiny=True, folder=tmp_path, log=tmp_path / "log")
    found = kernels.measure("b7_base", options)

    assert (found["pairs"], found["chunk"], found["recompute"]) == (32, 32, False)
    assert found["pairs_per_second"] == pytest.approx(32 / found["step_seconds"])
    assert found["tflop_per_pair"] > 0
    names = [line[0] for line in found["tables"]["one step"]]
    assert "`convolution_backward`" in names
    assert [model() for model in models] == [None]


@pytest.mark.long
def test_parts_without_training_run_on_a_cpu(tmp_path: Path) -> None:
    options = ("--device", "cpu", "--tiny", "--output", str(tmp_path / "found"))
    done = run("--only=machine,loss", *options, cwd=tmp_path, module="benchmarks.gpu")

    assert "machine ok, loss ok" in done.stdout
    assert measured_parts(tmp_path / "found") == {"machine": "ok", "loss": "ok"}


@pytest.mark.long
def test_the_settings_of_all_runs_on_a_gpu_are_right(tmp_path: Path) -> None:
    """No GPU is here: a misspelt key, or a batch that does not divide, would show only there."""
    options = Options(device="cuda", tiny=False, folder=tmp_path, log=tmp_path / "log")
    lines: list[tuple[str, ...]] = []
    for part in (runs, data, demo):
        for row in part.rows(options):
            lines.append(tuple(part.run_of(row, options).command[3:]))
    for row in towers.ORDER:
        if row not in (towers.HUGGING_FACE, towers.OPEN_CLIP):
            lines.append(setup.settings_of(towers.setup_of(row, options), options))

    assert len(lines) == 11 + 2 + 2 + 13
    for line in lines:
        check(compose_training(*line))


def test_real_sizes_are_refused_on_a_cpu(tmp_path: Path) -> None:
    done = finish(start("--device", "cpu", cwd=tmp_path, module="benchmarks.gpu"))
    assert done.returncode == 1
    assert "--device cpu: the real sizes take days there; add --tiny" in done.stderr


@pytest.mark.long
def test_every_part_runs_on_a_cpu(tmp_path: Path) -> None:
    options = ("--device", "cpu", "--tiny", "--minutes", "30", "--output", str(tmp_path))
    run(*options, cwd=tmp_path, module="benchmarks.gpu")
    assert measured_parts(tmp_path) == dict.fromkeys(SHARES, "ok")
