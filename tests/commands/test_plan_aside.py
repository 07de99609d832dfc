"""What a plan is given may be odd or broken: one line says so, and a run goes on untouched."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from align_train.commands.plan import plan
from align_train.commands.plan_counts import model_without_memory
from align_train.commands.plan_hardware import measured_file
from align_train.commands.plan_settings import check_plan, compose_plan
from align_train.commands.planned import Planned, Unplanned, planned_run, spell_plan
from align_train.config.compose import compose_training
from align_train.config.own_file import read_mapping
from align_train.errors import UserError
from align_train.loss.contrastive import ContrastiveLoss
from align_train.strategy import DDP
from align_train.strategy.needs import Needs

RUN = ("trainer=cpu", "model.image_size=32", "batch_size=32", "norm_group=16", "max_steps=200")
HERE = "tests.commands.test_plan_aside"


class Drawing(ContrastiveLoss):
    """Draws random numbers."""

    def forward(self, images: Tensor, *rest: Any, **ids: Any) -> Tensor:  # type: ignore[override]
        random.random()
        np.random.rand()  # noqa: NPY002
        images = images + torch.rand(1)
        return super().forward(images, *rest, **ids)


class Waiting(ContrastiveLoss):
    """Goes on until a value is small."""

    def forward(self, images: Tensor, *rest: Any, **ids: Any) -> Tensor:  # type: ignore[override]
        left = images.detach()
        while left.sum().item() > 0:
            left = left - 1
        return super().forward(images, *rest, **ids)


class Speechless(DDP):
    """Cannot say what it needs."""

    def needs(self, sizes: object) -> Needs:
        raise KeyError("no formula")


@pytest.fixture(autouse=True)
def _nothing_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def planned(*words: str) -> Planned | Unplanned | None:
    settings = compose_training(*RUN, *words)
    return planned_run(settings, model_without_memory(settings, 500), tokens=16)


def plan_of(word: str) -> None:
    settings = compose_plan(word)
    check_plan(settings)
    plan(settings)


def test_a_runs_random_numbers_are_the_same_with_a_plan() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state(), random.getstate()
    of_numpy = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    assert isinstance(planned(f"loss._target_={HERE}.Drawing"), Planned)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == of_numpy  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize(
    ("word", "told"),
    [
        pytest.param(
            f"loss._target_={HERE}.Waiting",
            "goes on until a value changes",
            marks=pytest.mark.long,
        ),
        (f"strategy._target_={HERE}.Speechless", "strategy: it cannot be planned"),
    ],
)
def test_a_run_whose_parts_cannot_be_planned_says_why(word: str, told: str) -> None:
    line = spell_plan(planned(word))["plan"]
    assert line.startswith("none: ")
    assert told in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"name: [1,\n", "cannot be read"),
        (b"\x00\xff\xfe", "cannot be read"),
        (b"name: here\n", "gpu."),
        (b"_target_: builtins.print\n", "expected align_train.planning.hardware.Hardware"),
    ],
)
def test_a_broken_file_of_this_machine_stops_no_run(content: bytes, told: str) -> None:
    file = measured_file(on_gpu=False, bf16=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    found = planned("precision=fp32")
    assert isinstance(found, Unplanned)
    assert told in found.reason
    assert "\n" not in found.reason


def test_a_file_of_aliases_or_a_huge_one_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "bomb.yaml"
    lines = ["a0: &a0 [x, x]"]
    for step in range(1, 40):
        lines.append(f"a{step}: &a{step} [*a{step - 1}, *a{step - 1}]")
    file.write_text("\n".join(lines))
    with pytest.raises(UserError, match="it has an alias"):
        read_mapping(str(file), key="gpu")
    file.write_text(f"name: {20_000 * '['}{20_000 * ']'}\n")
    with pytest.raises(UserError, match="nested deeper than 100 levels"):
        read_mapping(str(file), key="gpu")
    file.write_text(f"name: {'x' * 1_000_000}\n")
    with pytest.raises(UserError, match="more than 100,000 bytes"):
        read_mapping(str(file), key="gpu")
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="it is no file"):
        read_mapping(str(pipe), key="gpu")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("price_per_gpu_hour=inf", "expected at most"),
        ("bytes_per_pair=1e18", "expected at most"),
        ("pairs=1000000000000000", "expected at most"),
        ("batch_size=1000000000000000", "expected at most"),
        ("gpu.memory_gb=inf", "gpu.memory_gb=inf: expected at most"),
        ("gpu.efficiency=null", "gpu.efficiency: expected the shares"),
        ("tokens=100000", "model: it cannot be planned"),
    ],
)
def test_odd_figures_are_one_line(word: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        plan_of(word)
    assert "\n" not in str(error.value)
