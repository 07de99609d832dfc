"""A setting that names a metric takes what a run measures, and refuses the rest in one line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from align_train.config.compose import compose_training
from align_train.config.metrics import COLUMNS, check_metric
from align_train.config.saved import read_run
from align_train.errors import UserError

# Facts about the row and the run, which nobody would look for the best of.
_NO_METRICS = ("step", "pairs_seen", "eta_seconds", "held_out/pairs")


def test_every_column_and_result_of_a_run_is_a_metric(trained: Path) -> None:
    """And an evaluator gives no other than those that it names."""
    settings = read_run(trained / "config.yaml")
    results = json.loads((trained / "results.json").read_text())
    with (trained / "metrics.csv").open(newline="") as file:
        columns = csv.DictReader(file).fieldnames or []
    assert set(results) - set(_NO_METRICS) <= set(columns)

    for name in set(columns) - set(_NO_METRICS):
        check_metric(name, settings, key="metric")
    # Among evaluations alone, columns are refused.
    for name in COLUMNS:
        with pytest.raises(UserError, match=f"metric={name}: no such metric here"):
            check_metric(name, settings, key="metric", columns=())


@pytest.mark.parametrize(
    ("metric", "found"),
    [
        ("retrieval/image_to_text/recal@1", "did you mean retrieval/image_to_text/recall@1?"),
        ("retreival/image_to_text/recall@1", "did you mean retrieval/image_to_text/recall@1?"),
        ("retrieval", "no such metric here"),
        ("los", "did you mean loss?"),
        ("knn/weighted_10", "did you mean knn/weighted_20?"),
        ("quality", "there are loss, temperature"),
    ],
)
def test_a_misspelt_metric_is_refused_with_the_nearest(metric: str, found: str) -> None:
    settings = compose_training("eval=[pairs,knn]")
    with pytest.raises(UserError) as refused:
        check_metric(metric, settings, key="keep_best")
    assert str(refused.value).startswith(f"keep_best={metric}: ") and found in str(refused.value)


def test_a_metric_that_only_an_evaluation_knows_passes_by_its_evaluator(tmp_path: Path) -> None:
    """The classes of the demo are drawn by the run itself."""
    settings = compose_training("eval=demo", f"data.make.folder={tmp_path}")
    check_metric("zero_shot/colour", settings, key="metric")


def test_metrics_of_held_out_pairs_want_such_pairs() -> None:
    settings = compose_training("eval=pairs", "data.held_out=null")
    with pytest.raises(UserError, match=r"without data\.held_out the run is not evaluated by"):
        check_metric("retrieval/text_to_image/recall@1", settings, key="metric")


def test_metrics_of_a_group_begin_with_the_names_of_its_evaluators() -> None:
    settings = compose_training("eval=wds", "eval.wds.sets=[mnist]", "eval.wds.language=ja")
    check_metric("wds_mnist_ja/top1", settings, key="metric")
    with pytest.raises(UserError, match="no such metric here"):
        check_metric("wds_mnist/top1", settings, key="metric")
