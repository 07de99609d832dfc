"""Counted FLOPs are the published ones, and metrics say how fast a run is.

They also say which part of a step takes its time.
"""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import pytest
import torch

from align_train.config.components import build
from align_train.config.compose import compose_training
from align_train.model import DualEncoder
from align_train.training.flops import ModelFlops, _count
from tests.support.commands import run


def built(*overrides: str) -> DualEncoder:
    node = compose_training(*overrides).model
    model: DualEncoder = build(node | {"vocabulary_size": node["vocabulary_size"] or 1000})
    return model


@pytest.fixture(scope="module")
def b7_base() -> DualEncoder:
    return built("model=b7_base")


def test_forward_passes_cost_what_was_published(b7_base: DualEncoder) -> None:
    """EfficientNet-B7 at 289 pixels takes 8.9 G multiply-adds, BERT-base with 64 tokens 5.5 G.

    A multiply-add is two FLOPs, and a step takes three times the forward pass. Only matrix products
    and convolutions are counted; timm counts more.
    """
    flops = ModelFlops(b7_base)
    image, text = flops.of_step(1, 0) / 3, (flops.of_step(1, 64) - flops.of_step(1, 0)) / 3
    assert image == pytest.approx(2 * 8.9e9, rel=0.1)
    assert text == pytest.approx(2 * 5.5e9, rel=0.1)


def test_a_text_of_any_length_is_counted_from_three_short_ones() -> None:
    model = built("model=tiny")
    flops = ModelFlops(model)
    picture = flops.of_step(1, 0) / 3 - flops._text[0]
    for tokens in (8, 20, 40):
        counted = _count(partial(model.text_tower, torch.ones(1, tokens, dtype=torch.int32)))
        assert flops.of_step(1, tokens) / 3 - picture == pytest.approx(counted, rel=1e-6)
    assert model.training


def test_a_locked_tower_has_no_backward_pass() -> None:
    whole, locked = (ModelFlops(built("model=tiny", *lock)) for lock in ((), ("model.lock=image",)))
    for tokens in (0, 16):
        text = (
            3
            * 4
            * sum(coefficient * tokens**power for power, coefficient in enumerate(whole._text))
        )
        assert locked.of_step(4, tokens) - text == pytest.approx(
            (whole.of_step(4, tokens) - text) / 3
        )


@pytest.mark.long
def test_the_columns_of_two_processes(tmp_path: Path, small_run: tuple[str, ...]) -> None:
    """The second process is slower by 0.4 s a chunk, at two chunks a step.

    A busy machine adds far less.
    """
    slow = (
        "model._target_=tests.support.planted.Slow",
        "trainer.peak_tflops=0.001",
        "log_every=3",
        "max_steps=9",
    )
    run(
        *small_run,
        *slow,
        "trainer.devices=2",
        cwd=tmp_path,
        PLANTED_SECONDS_A_CHUNK="0.4",
        PLANTED_SLOW_RANK="1",
    )
    with (tmp_path / "outputs" / "demo" / "metrics.csv").open(newline="") as file:
        rows = [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]
    assert [row["step"] for row in rows] == [3, 6, 9]
    for row in rows:
        assert row["pairs_per_second"] == pytest.approx(32 / row["step_seconds"])
        assert row["pairs_per_second_per_device"] == pytest.approx(row["pairs_per_second"] / 2)
        assert row["mfu"] == pytest.approx(row["tflops_per_device"] / 0.001)
        assert row["step_seconds"] >= 0.8
        assert 0 <= row["data_wait_fraction"] < 1 and 0.1 < row["memory_gb"] < 10
        assert row["most_waiting_rank"] in (0, 1)
    assert [row["slowest_rank"] for row in rows[1:]] == [1, 1]
    assert all(row["rank_spread"] > 1 for row in rows[1:])
    assert rows[0]["eta_seconds"] > rows[1]["eta_seconds"] > rows[2]["eta_seconds"] == 0
