"""Real runs hold and send what is planned, under each engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.plan.data import make_shards
from benchmarks.plan.measure import can_be_alone, measure
from benchmarks.plan.planned import plan_of
from benchmarks.plan.setups import Setup

SETUPS = (
    Setup("tiny", "ddp", 2, 64),
    Setup("tiny", "fsdp", 2, 64),
    Setup("tiny", "zero2", 2, 64),
    Setup("tiny", "zero3", 2, 64),
)


@pytest.mark.long
@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
def test_memory_is_planned_within_a_tenth_and_bytes_sent_within_a_twentieth(
    setup: Setup, tmp_path: Path
) -> None:
    make_shards(tmp_path)
    measured = measure(setup, tmp_path)
    plan = plan_of(setup.overrides)
    assert plan.memory.peak == pytest.approx(measured["peak"], rel=0.10)
    if can_be_alone():  # or others' messages count too
        assert plan.sent * setup.ranks == pytest.approx(measured["bytes_per_step"], rel=0.05)
