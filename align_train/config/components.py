"""A `_target_` node against the signature that it names, and the object that it describes.

The signature of a class is the schema of its node. A class of any importable package works like
ours: its constructor's names and types give the same errors in one line.

Price: `check_component` imports the class, and with it torch. Rules that need no class come first.
"""

from __future__ import annotations

import collections.abc
import contextlib
import inspect
import logging
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from align_train.config.schema import Node
from align_train.errors import UserError, did_you_mean, one_line

# Hydra logs what it cannot import, in several lines. We say it in one.
logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)

# Null in the settings: known only once the data is open.
_FILLED_IN = ("model.vocabulary_size", "model.classes")

# Keys of a node that the run reads itself: the class never sees them (`without_runs_own`).
_RUNS_OWN = ("scheduler.from",)

# Keys that speak to Hydra and not to the class.
_HYDRAS_OWN = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")

_SPELLED = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a text",
    type(None): "null",
}


def build(node: Node, **extra: object) -> Any:
    """Builds the object that a checked node describes.

    Args:
        node: A node with `_target_`; components within are built first.
        extra: More arguments for the constructor.

    Returns:
        What the class or function gave; with `_partial_: true` a function that waits for more.

    Raises:
        UserError: The constructor refused its arguments (ValueError), or failed.
    """
    try:
        return instantiate(node, _convert_="all", **extra)
    except InstantiationException as error:
        # Hydra wraps what a constructor raises; the user wants the constructor's own words.
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, ValueError):
            raise UserError(f"{node['_target_']}: {cause}") from None
        if isinstance(cause, Exception):
            reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
            raise UserError(
                f"{node['_target_']}: cannot be built with these settings ({reason})"
            ) from error
        raise


def without_runs_own(node: Node, path: str) -> Node:
    """A node without the keys that the run reads itself.

    Args:
        node: A node with `_target_`.
        path: Its key.
    """
    return {name: value for name, value in node.items() if f"{path}.{name}" not in _RUNS_OWN}


def class_name(node: Mapping[str, object]) -> str:
    """The last part of a node's `_target_`."""
    return str(node.get("_target_")).rpartition(".")[2]


def find_target(node: Node, path: str) -> Any:
    """Imports the class or function that a node names.

    Args:
        node: A node with `_target_`.
        path: The node's key, for the error.

    Returns:
        The class or function.

    Raises:
        UserError: It cannot be imported.
    """
    name = node["_target_"]
    try:
        return get_object(name)
    except Exception as error:  # a user's module may raise anything while it is imported
        cause = error.__cause__ or error
        reason = one_line(cause, 200)
        raise UserError(f"{path}._target_={name}: no such class or function ({reason})") from None


def has_true(node: Node, path: str, attribute: str) -> bool:
    """Whether the class that a node names has a true class attribute.

    Args:
        node: A node with `_target_`.
        path: The node's key, for the error.
        attribute: Its name. A class without it counts as false, and so does a function.

    Returns:
        Whether the attribute is True.

    Raises:
        UserError: The class cannot be imported.
    """
    return getattr(find_target(node, path), attribute, False) is True


def holds_components(value: object) -> bool:
    """Whether a value is a node with `_target_`, or a list with one."""
    nodes = value if isinstance(value, list) else [value]
    return any(isinstance(node, dict) and "_target_" in node for node in nodes)


def check_component(node: object, path: str) -> None:
    """Checks nodes against the signatures that they name, at any depth.

    Args:
        node: A node, or anything that holds some.
        path: Its key, for the error.

    Raises:
        UserError: A class does not exist, a key is not in its signature, or a value has the wrong
            type.
    """
    if isinstance(node, list):
        for index, item in enumerate(node):
            check_component(item, f"{path}[{index}]")
    elif isinstance(node, dict) and "_target_" not in node:
        for name, item in node.items():
            check_component(item, f"{path}.{name}")
    elif isinstance(node, dict):
        _check_arguments(node, path)


def _check_arguments(node: Node, path: str) -> None:
    target = find_target(node, path)
    # A class's own annotations are those of attributes; its arguments have theirs in `__init__`.
    function = target.__init__ if inspect.isclass(target) else target
    parameters = inspect.signature(function).parameters
    takes_any = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
    hints = _hints(function)

    # Missing arguments are not looked for: callers give more (`build(node, progress=…)`), and a
    # `_partial_` node waits for them.
    for name, value in node.items():
        key = f"{path}.{name}"
        if name in _HYDRAS_OWN or key in _RUNS_OWN:
            continue
        if name not in parameters and not takes_any:
            raise UserError(f"{key}: no such setting{_taken(name, list(parameters), node, path)}")
        # A node becomes its object only later, so no hint can be compared with it yet.
        if holds_components(value):
            check_component(value, key)
        elif value is None and key in _FILLED_IN:
            continue
        elif name in hints and not _matches(value, hints[name]):
            raise UserError(f"{key}={value}: expected {_spell(hints[name])}")


def _taken(name: str, parameters: list[str], node: Node, path: str) -> str:
    """What the signature has in place of an unknown key."""
    names = ", ".join(known for known in parameters if known != "self")
    near = did_you_mean(name, parameters, before=f"{path}.")
    return near or f"; {node['_target_']} takes {names}"


def parameter_hint(settings: Node, key: str) -> object:
    """Finds the type hint of a parameter of a component.

    Args:
        settings: The composed settings, in which the parameter itself may be missing.
        key: Its dotted key, e.g. `model.image_tower.width`.

    Returns:
        The hint; None if the key names no parameter with a hint.

    Raises:
        UserError: The class cannot be imported.
    """
    parent, _, name = key.rpartition(".")
    node: object = settings
    for part in parent.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, dict) or "_target_" not in node:
        return None

    target = find_target(node, parent)
    return _hints(target.__init__ if inspect.isclass(target) else target).get(name)


def _hints(function: Callable[..., object]) -> dict[str, object]:
    hints: dict[str, object] = {}
    names = getattr(inspect.unwrap(function), "__globals__", {})
    # One hint at a time: a single one that cannot be resolved would cost all the others.
    for name, hint in getattr(function, "__annotations__", {}).items():
        alone = types.SimpleNamespace(__annotations__={name: hint})
        # Some only a type checker can resolve: their names are checked all the same.
        with contextlib.suppress(NameError, TypeError, AttributeError):
            hints |= typing.get_type_hints(alone, names)
    return hints


def _matches(value: object, hint: object) -> bool:
    """Whether a YAML value can stand for a type hint; hints that YAML cannot express pass."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)

    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if hint is type(None):
        return value is None
    if hint in (bool, str):
        return isinstance(value, hint)

    # In Python True is an integer; in a setting it is a mistake.
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)

    if origin in (collections.abc.Sequence, list, tuple):
        return isinstance(value, list) and all(_matches(item, arguments[0]) for item in value)
    return True


def _spell(hint: object) -> str:
    """A type hint in the user's words."""
    if hint in _SPELLED:
        return _SPELLED[hint]

    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_spell(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (collections.abc.Sequence, list, tuple):
        return f"a list (each {_spell(arguments[0])})"
    return str(hint)
