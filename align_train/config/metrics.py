"""A setting that names a metric: is it one that the run will measure?

Names stand in metrics.csv and results.json alike: a column of every row (`loss`), or an evaluator's
name before the metric's own (`retrieval/image_to_text/recall@1`).

Price: the evaluators' classes are imported, and with them torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from align_train.config.components import build, find_target
from align_train.config.schema import TrainSettings
from align_train.errors import UserError, did_you_mean, shown, shown_names

COLUMNS = (
    "loss",
    "temperature",
    "lr",
    "grad_norm",
    "pairs_per_second",
    "pairs_per_second_per_device",
    "step_seconds",
    "data_wait_fraction",
    "tflops_per_device",
    "mfu",
    "memory_gb",
    "bad_pairs",
)
"""Columns that every row of metrics.csv has, or may have."""


def check_metric(
    metric: str, settings: TrainSettings, *, key: str, columns: Sequence[str] = COLUMNS
) -> None:
    """Refuses a metric that no evaluation of the run will give.

    Args:
        metric: E.g. `retrieval/image_to_text/recall@1`.
        settings: Checked settings of the run.
        key: The setting that names the metric, for the error.
        columns: Columns of metrics.csv that will do as well; none: evaluations alone.

    Raises:
        UserError: No such metric, and perhaps which one was meant.
    """
    if metric in columns:
        return

    evaluator = metric.partition("/")[0]
    nodes = {name: node for name, node in (settings.eval or {}).items() if node is not None}
    # Said first: "no such metric" would mislead if only the held-out pairs are missing.
    if evaluator in nodes and not _is_asked(settings, nodes[evaluator]):
        raise UserError(
            f"{key}={shown(metric)}: without data.held_out the run is not evaluated by "
            f"{evaluator}; give data.held_out=…, or take another metric"
        )

    known = list(columns)
    for name, node in nodes.items():
        metrics = _metrics_of(node, f"eval.{name}")
        # Some are known only by evaluating: the name of the evaluator has to do.
        if metrics is None and evaluator in _names_of(node, name) and metric != evaluator:
            return
        known += [f"{name}/{one}" for one in metrics or ()]
    if metric in known:
        return

    fix = did_you_mean(metric, known) or f", there are {shown_names(known)}"
    raise UserError(f"{key}={shown(metric)}: no such metric here{fix}")


def _is_asked(settings: TrainSettings, node: dict[str, object]) -> bool:
    """Whether a run calls an evaluator: without held-out pairs it leaves some out."""
    return settings.data.get("held_out") is not None or node.get("data", "") is not None


def _names_of(node: dict[str, object], name: str) -> Sequence[str]:
    """The evaluators that a node stands for: one of its own name, or a group's."""
    from align_train.evals import EvaluatorGroup

    target = find_target(node, f"eval.{name}")
    if inspect.isclass(target) and issubclass(target, EvaluatorGroup):
        # Only the object knows the names of its evaluators, so it is built.
        group: EvaluatorGroup = build(node)
        return list(group.evaluators())
    return (name,)


def _metrics_of(node: dict[str, object], path: str) -> Sequence[str] | None:
    # Here: it imports torch, which commands must not wait for.
    from align_train.evals import Evaluator

    target = find_target(node, path)
    if inspect.isclass(target) and issubclass(target, Evaluator):
        return target.metrics(node)
    return None
