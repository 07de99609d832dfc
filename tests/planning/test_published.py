"""The published runs: their overrides compose, and say what was reported."""

from __future__ import annotations

import pytest

from align_train.commands.plan_settings import check_plan, compose_plan, hardware_of
from align_train.config.check import check_root
from align_train.config.components import build
from benchmarks.plan.published import PUBLISHED, PublishedRun


@pytest.mark.parametrize("run", PUBLISHED, ids=lambda run: run.name)
def test_the_overrides_of_a_published_run_are_a_plan(run: PublishedRun) -> None:
    settings = compose_plan(*run.words)
    check_plan(settings)
    check_root(settings)
    hardware_of(settings)

    assert settings.trainer.processes == run.gpus
    share = settings.batch_size // run.gpus
    assert settings.chunk_size == share
    assert settings.model["image_size"] in (224, 289)
    # Runs of our own recipes have the reported number of steps.
    if "model=by_name" not in run.words:
        assert settings.steps * settings.batch_size == run.pairs


def test_the_reported_speeds_are_those_that_others_quote() -> None:
    speeds = {run.name: run.pairs_per_second for run in PUBLISHED}
    assert speeds["open_clip, ViT-B/32"] == pytest.approx(779, abs=7)  # 773 to 785
    assert speeds["COYO-ALIGN, B7 + BERT-base"] == pytest.approx(55.6, abs=0.1)
    assert speeds["ALIGN, L2 + BERT-large"] is None


@pytest.mark.long
def test_the_towers_are_those_of_open_clip_to_the_parameter() -> None:
    """But for two biases: ours project with one each."""
    (run,) = [run for run in PUBLISHED if run.name == "open_clip, ViT-B/32"]
    node = compose_plan(*run.words).model
    model = build(node | {"vocabulary_size": 49_408})
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == 151_277_313 + 2 * 512
