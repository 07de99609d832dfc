"""The figures of conf/gpu: complete, sourced, and alike in both places that have peaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from align_train.commands.plan_settings import hardware_of
from align_train.config.compose import compose_command
from align_train.config.meanings import read_comments
from align_train.config.plan_schema import PlanSettings
from align_train.errors import UserError
from align_train.planning.hardware import Hardware
from align_train.training.flops import peaks_of
from tests.support.settings import CONF

FILES = sorted((CONF / "gpu").glob("*.yaml"))


def hardware(*words: str) -> Hardware:
    return hardware_of(compose_command("plan", PlanSettings, *words))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_figure_is_there_and_has_a_comment(file: Path) -> None:
    found = hardware(f"gpu={file.stem}")
    assert found.memory > 1e10
    # No GPU is faster in float32, and none sends faster than it reads its memory.
    assert found.fp32_tflops < found.bf16_tflops
    assert found.network_gbs <= found.node_link_gbs < found.memory_gbs

    comments = read_comments(file)
    assert comments.header
    keys = [line.partition(":")[0] for line in file.read_text().splitlines() if ":" in line]
    figures = [key for key in keys if not key.startswith(("#", " ", "_"))]
    assert set(figures) == set(comments.of_keys)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_peaks_are_those_that_a_run_measures_itself_by(file: Path) -> None:
    found = hardware(f"gpu={file.stem}")
    peaks = peaks_of(found.name)
    if file.stem == "tpu_v3":
        assert peaks is None  # no run of ours computes on one
        return
    assert peaks == (found.bf16_tflops, found.fp32_tflops)
    assert found.peak_flops(bf16=True) == found.bf16_tflops * 1e12


def test_links_and_launches() -> None:
    h100 = hardware("gpu=h100")
    assert h100.link(nodes=1) == 450e9
    assert h100.link(nodes=2) == 50e9
    assert h100.launch_us > 0
    assert hardware("gpu=tpu_v3").launch_us == 0


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("gpu.memory_gb=x", "gpu.memory_gb=x: expected a number"),
        ("gpu.memory_gb=0", "gpu.memory_gb=0: expected more than 0"),
        ("gpu.efficiency.link=0", "gpu.efficiency.link=0: expected a share"),
        ("+gpu.memroy_gb=3", "gpu.memroy_gb: no such setting, did you mean gpu.memory_gb?"),
        ("~gpu.cpu_cores", "gpu.cpu_cores is not set"),
    ],
)
def test_a_wrong_figure_is_named(word: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        hardware(word)
    assert told in str(error.value)
