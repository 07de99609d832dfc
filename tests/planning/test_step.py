"""A plan chooses what a run would choose, and its figures add up."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from align_train.commands.plan import ENGINES
from align_train.commands.plan_counts import model_without_memory, planner_of
from align_train.config.compose import compose_training
from align_train.planning.step import MARGIN, StepPlan, StepPlanner
from align_train.strategy import DDP
from tests.planning.test_seconds import GPU
from tests.support.settings import composed

RUN = (
    "model=tiny",
    "model.image_size=32",
    "batch_size=256",
    "norm_group=8",
    "trainer=gpu",
    "trainer.devices=4",
)


@cache
def planner(*overrides: str) -> StepPlanner:
    settings = compose_training(*RUN, *overrides)
    model = model_without_memory(settings, 500)
    return planner_of(settings, model, GPU, tokens=16)


def planned(gigabytes: float, *overrides: str, engine: str = "strategy=ddp") -> StepPlan:
    hardware = replace(GPU, memory_gb=gigabytes)
    plan = replace(planner(*overrides), hardware=hardware).step(ENGINES[engine], world=4, nodes=1)
    assert plan is not None
    return plan


def test_the_whole_device_batch_is_kept_if_it_fits_else_the_largest_chunk_that_does() -> None:
    roomy = planned(80)
    assert (roomy.recompute, roomy.chunk_size, roomy.chunks) == (False, 64, 1)

    needed = roomy.memory.peak / 1e9
    tight = planned(needed)
    assert tight.fits
    assert tight.recompute
    assert tight.chunk_size in (8, 16, 32)
    assert tight.memory.peak <= (1 - MARGIN) * needed * 1e9
    # The next larger one would not have fitted.
    larger = planned(needed, f"chunk_size={2 * tight.chunk_size}", "recompute=true")
    assert larger.memory.peak > (1 - MARGIN) * needed * 1e9

    hopeless = planned(0.001)
    assert not hopeless.fits
    assert hopeless.chunk_size == 8


@pytest.mark.parametrize("engine", ENGINES)
def test_parts_add_up_to_the_peak_and_to_the_step(engine: str) -> None:
    plan = planned(80, engine=engine)
    assert plan.memory.peak == sum(plan.memory.parts.values()) > 0
    assert plan.seconds.total == pytest.approx(sum(plan.seconds.parts.values()))
    assert plan.pairs_per_second == pytest.approx(256 / plan.seconds.total)


def test_what_is_sharded_shrinks_with_the_ranks_and_what_is_whole_does_not() -> None:
    tiny = planner("chunk_size=8")
    few = {words: tiny.step(engine, world=2, nodes=1) for words, engine in ENGINES.items()}
    many = {words: tiny.step(engine, world=32, nodes=4) for words, engine in ENGINES.items()}
    for words in ENGINES:
        before, after = few[words], many[words]
        assert before is not None
        assert after is not None
        sharded = words != "strategy=ddp"
        assert (after.memory.parts["optimizer"] < before.memory.parts["optimizer"]) == sharded


def test_a_strategy_that_does_not_say_what_it_needs_has_no_plan() -> None:
    class Own(DDP):
        def needs(self, sizes: object) -> None:  # type: ignore[override]
            return None

    assert planner().step(Own(), world=4, nodes=1) is None


def test_bytes_on_the_wire_are_those_of_a_ring() -> None:
    counts = planner()
    plan = counts.step(DDP(), world=4, nodes=1)
    assert plan is not None
    gradients = 2 * 3 / 4 * counts.counted.model.gradients
    # Beside it the loss sends embeddings, and BatchNorm its statistics.
    assert gradients < plan.sent < 1.1 * gradients


def test_a_run_of_one_process_sends_nothing() -> None:
    alone = replace(planner(), batch_size=64).step(DDP(), world=1, nodes=1)
    assert alone is not None
    assert alone.sent == 0
    assert "messages" not in alone.seconds.parts
    assert composed(*RUN).trainer.on_gpu
