"""The key `eval`: evaluators by name, checked, resolved against a run's settings, and built."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from align_train.config.components import build, check_component, holds_components
from align_train.config.compose import unresolved_training
from align_train.config.plain import plain_node
from align_train.config.saved import read_nodes
from align_train.config.schema import Node
from align_train.errors import UserError

if TYPE_CHECKING:
    from align_train.evals import Evaluator

# Parameters of evaluators that are sets of images.
_SETS = ("data", "train")


def check_evaluators(nodes: object) -> None:
    """Checks that each entry of `eval` is an evaluator, or null: taken out of a choice.

    Args:
        nodes: The evaluators' nodes by name.

    Raises:
        UserError: Names the first entry that is no evaluator.
    """
    if not isinstance(nodes, dict | None):
        raise UserError(f"eval={nodes}: expected evaluators by name, as in conf/eval")

    for name, node in (nodes or {}).items():
        if node is not None:
            _check_evaluator(str(name), node)


def _check_evaluator(name: str, node: object) -> None:
    if not isinstance(node, dict) or "_target_" not in node:
        raise UserError(
            f"eval.{name}: no evaluator; expected a node with _target_, as in conf/eval, or null"
        )
    # A slash parts the evaluator's name from its figure's in results.json.
    if "/" in name or name.startswith("."):
        raise UserError(f"eval.{name}: names results and files; expected a plain name")

    check_component(node, f"eval.{name}")
    for key in _SETS:
        value = node.get(key)
        if key not in node or holds_components(value) or (value is None and key == "data"):
            continue
        null = ", or null for the held-out pairs" if key == "data" else ""
        raise UserError(
            f"eval.{name}.{key}={value}: expected a set of images: a node with _target_, such as "
            f"align_train.stream.sets.Shards{null}"
        )


def build_evaluators(nodes: Node | None) -> dict[str, Evaluator]:
    """Builds the evaluators that `eval` describes.

    Args:
        nodes: Checked nodes by name; a null entry is left out.

    Returns:
        The evaluators by name.

    Raises:
        UserError: A node describes something else.
    """
    # Here: it imports torch, which commands must not wait for.
    from align_train.evals import Evaluator, EvaluatorGroup

    evaluators: dict[str, Evaluator] = {}
    for name, node in (nodes or {}).items():
        if node is None:
            continue
        built = build(node)
        # One node may stand for a suite of sets, each an evaluator with a name of its own.
        group = built.evaluators() if isinstance(built, EvaluatorGroup) else {str(name): built}
        for own_name, evaluator in group.items():
            if not isinstance(evaluator, Evaluator) or isinstance(evaluator, type):
                raise UserError(
                    f"eval.{name}: {node['_target_']} makes no evaluator; see "
                    f"align_train/evals/base.py"
                )
            # Results are filed under the name, so the second one would replace the first.
            if own_name in evaluators:
                raise UserError(
                    f"eval.{name}: {own_name} is an evaluator already; give one of them another "
                    f"name, or leave it out"
                )
            evaluators[own_name] = evaluator
    return evaluators


def resolved_for_run(path: Path, *, evaluators: Node | None, model: str) -> tuple[Node, Node]:
    """Resolves evaluators against the settings that a run recorded.

    Args:
        path: The run's config.yaml.
        evaluators: The nodes of `eval`, which may refer to the run's settings, such as
            `${data.shards}`; None takes the run's own.
        model: The model's path, for the error.

    Returns:
        The nodes of `eval` and of `data`.

    Raises:
        UserError: The file holds no run, or an evaluator refers to a setting that it lacks.
    """
    settings = read_nodes(path)
    # An exported model has a config.yaml too, but with the key `model` alone.
    if "data" not in settings:
        raise UserError(f"{path}: not the settings of a run; restore it")
    return _resolved(OmegaConf.create(settings), evaluators, model)


def resolved_for_model(
    node: Node, *overrides: str, evaluators: Node | None, model: str
) -> tuple[Node, Node]:
    """Resolves evaluators against the defaults of training, for a model that is no run.

    Args:
        node: The model's node.
        overrides: Choices of conf/, such as `eval=pairs`.
        evaluators: As in `resolved_for_run`; None takes those of the overrides.
        model: The model's path, for the error.

    Returns:
        The nodes of `eval` and of `data`, which has neither shards nor held-out shards.

    Raises:
        UserError: An evaluator refers to a setting that must be given.
    """
    # The demo's shards are not this model's.
    config = unresolved_training(*overrides, "data.held_out=null", "data.shards=???")
    OmegaConf.set_struct(config, False)
    config.model = node
    return _resolved(config, evaluators, model)


def _resolved(config: DictConfig, evaluators: Node | None, model: str) -> tuple[Node, Node]:
    if evaluators is not None:
        config.eval = OmegaConf.create(evaluators)
    nodes: Any = config.eval
    try:
        if isinstance(nodes, DictConfig):
            nodes = OmegaConf.to_container(nodes, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = (error.full_key or "").removeprefix("eval.")
        reason = str(error).splitlines()[0]
        raise UserError(f"eval.{key}: {model} does not say ({reason}); give it") from None

    return nodes, plain_node(config.data, resolve=True)
