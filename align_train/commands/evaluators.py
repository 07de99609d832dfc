"""The evaluators of a command or a run, checked, and their sets, open.

All that can be wrong with their settings shows here, before anything is embedded.
"""

from __future__ import annotations

from collections.abc import Mapping

from align_train.cluster import launcher
from align_train.cluster.collectives import rank
from align_train.commands.open_sets import open_sets
from align_train.commands.results_folder import results_folder
from align_train.commands.targets import check_results_folder
from align_train.commands.unknown_tokens import warn_of_unknown
from align_train.config.command_schema import EvaluateSettings
from align_train.config.evaluators import (
    build_evaluators,
    check_evaluators,
    resolved_for_model,
    resolved_for_run,
)
from align_train.config.schema import Node, TrainSettings
from align_train.errors import UserError
from align_train.evals import Evaluator
from align_train.pretrained.open import open_pretrained
from align_train.pretrained.pretrained import Pretrained, without_pretrained
from align_train.stream.sets import EvaluationSets


def prepare_evaluation(
    settings: EvaluateSettings,
) -> tuple[Pretrained, dict[str, Evaluator], EvaluationSets]:
    """Opens the model, the evaluators and their sets; computes nothing.

    Args:
        settings: The command's settings.

    Raises:
        UserError: A setting, the model or a set of images is not as expected.
    """
    # In this order: the model says which evaluators and sets there are by default.
    pretrained = open_pretrained(settings.model)
    if rank() == 0:
        # Before the work, and on the one rank that will write there.
        check_results_folder(results_folder(settings, pretrained))
    nodes, data = _resolved(pretrained, settings)
    check_evaluators(nodes)
    evaluators = build_evaluators(nodes)

    asking = [name for name, evaluator in evaluators.items() if wants_held_out(evaluator)]
    if settings.shards is not None:
        data["held_out"] = settings.shards
    elif not asking:
        # Nobody looks at them: they may be gone, or lie on another machine.
        data["held_out"] = None
    if data["held_out"] is None and asking:
        why = "the run has no held-out shards"
        if pretrained.run is None:
            why = "this model is no run of ours"
        raise UserError(
            f"shards is not set, and {why}; give shards=… (a manifest, folder or glob), or "
            f"evaluators with images of their own instead of {', '.join(asking)}"
        )

    sets = open_sets(pretrained, settings, data)
    # Those that stand alone are opened when their turn comes, so that one may fail.
    together = {name: one for name, one in evaluators.items() if not one.stands_alone()}
    open_evaluators(together, sets)
    warn_of_unknown(sets, together, str(pretrained.tokenizer))
    return pretrained, evaluators, sets


def _resolved(pretrained: Pretrained, settings: EvaluateSettings) -> tuple[Node, Node]:
    """The nodes of `eval` and `data`: of the run, or the defaults for a model that is no run."""
    given = settings.eval
    if pretrained.run:
        return resolved_for_run(pretrained.run.config, evaluators=given, model=settings.model)

    # A classifier has no texts to retrieve by.
    choices = ["eval=pairs"]
    if pretrained.is_classifier:
        choices = ["eval=classification", "loss=classification"]
    node = without_pretrained(pretrained.node)
    return resolved_for_model(node, *choices, evaluators=given, model=settings.model)


def evaluators_of(settings: TrainSettings, data: EvaluationSets) -> dict[str, Evaluator]:
    """Builds a run's evaluators and opens their sets, before the first step.

    Args:
        settings: The run's settings.
        data: The run's sets.

    Returns:
        The evaluators by name. Without held-out pairs those that ask for them are left out, and
        the first process says which.

    Raises:
        UserError: A set is missing, or an evaluator cannot use it.
    """
    built = build_evaluators(settings.eval)
    kept: dict[str, Evaluator] = {}
    for name, evaluator in built.items():
        if data.held_out is not None or not wants_held_out(evaluator):
            kept[name] = evaluator

    left_out = [name for name in built if name not in kept]
    if left_out and launcher.is_first_process():
        names = ", ".join(left_out)
        print(f"without data.held_out the run is not evaluated by {names}", flush=True)

    open_evaluators(kept, data)
    return kept


def wants_held_out(evaluator: Evaluator) -> bool:
    """Whether an evaluator asks for the run's held-out pairs."""
    return None in evaluator.sets()


def open_evaluators(evaluators: Mapping[str, Evaluator], sets: EvaluationSets) -> None:
    """Opens the sets of evaluators, so that their errors show before the long work.

    Args:
        evaluators: By name.
        sets: Where they are opened.

    Raises:
        UserError: A set is missing, or an evaluator cannot use it.
    """
    for evaluator in evaluators.values():
        for image_set in evaluator.sets():
            # Texts and labels alone: no image is decoded.
            sets.images_of(image_set).about()
        evaluator.check(sets.images_of)
