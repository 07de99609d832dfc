"""Counted FLOPs are the published ones, and metrics say how fast a run is.

They also say which part of a step takes its time.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from align_train.config.components import build
from align_train.config.compose import compose_training
from align_train.model import DualEncoder
from align_train.training.callbacks import throughput
from align_train.training.flops import ModelFlops, peak_tflops
from align_train.training.operator_counter import OperatorCounter
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
        with torch.no_grad(), OperatorCounter() as counter:
            model.text_tower(torch.ones(1, tokens, dtype=torch.int32))
        assert flops.of_step(1, tokens) / 3 - picture == pytest.approx(counter.flops, rel=1e-6)
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


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA H20", 148.0),
        ("NVIDIA H800 PCIe", 756.0),
        ("NVIDIA A800-SXM4-80GB", 312.0),
        ("NVIDIA B300 SXM6 AC", 2250.0),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", None),
        ("Tesla K80", None),
    ],
)
def test_the_peak_is_known_by_the_name_of_a_whole_gpu(
    name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak_tflops(torch.device("cuda"), bf16=True) == peak


class Event:
    """Stands in for `torch.cuda.Event`: each record takes place one millisecond after the other."""

    made = 0
    now = 0

    def __init__(self) -> None:
        Event.made += 1

    def record(self) -> None:
        Event.now += 1
        self.at = Event.now

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


def test_a_step_keeps_two_events_however_many_chunks_and_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first begin and the last end count; passes made again within backward do not."""
    monkeypatch.setattr(throughput, "_event", Event)
    model = torch.nn.Linear(2, 2)
    watch = throughput._Stopwatch(on_gpu=True)
    model.register_forward_pre_hook(watch.begin)
    model.register_forward_hook(watch.end)

    for _ in range(3):
        chunks = [checkpoint(model, torch.ones(1, 2), use_reentrant=False) for _ in range(4)]
        torch.autograd.backward([chunk.sum() for chunk in chunks])
        watch.end_step()

    assert Event.made == 2
    # One event at the first begin, then one at each of four ends.
    assert watch.read() == pytest.approx(3 * 4e-3)
    assert watch.read() == 0


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
