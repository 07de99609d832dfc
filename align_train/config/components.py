from __future__ import annotations

import collections.abc
import difflib
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Literal

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig

from align_train.errors import UserError

_FILLED_IN = (
    "model.vocabulary_size",
    "model.classes",
)  # null in the configuration: known only once the data is open


# --- checks -----------------------------------------------------------------------------------------------------------


def class_name(node: Any) -> str:
    """Of what a node describes: the last part of its `_target_`."""
    return str(node.get("_target_")).rpartition(".")[2]


def check_component(node: Any, path: str) -> None:
    """A node with `_target_` against the signature of what it names: unknown keys and wrong types."""
    if isinstance(node, ListConfig):
        for number, item in enumerate(node):
            check_component(item, f"{path}[{number}]")
    if not isinstance(node, DictConfig):
        return
    if "_target_" not in node:
        for name in node:
            check_component(node[name], f"{path}.{name!s}")
        return
    try:
        target = get_object(node._target_)
    except Exception:
        raise UserError(f"{path}._target_={node._target_}: no such class or function") from None
    function = target.__init__ if inspect.isclass(target) else target
    parameters = inspect.signature(function).parameters
    hints = _hints(function)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key in node:
        name = str(key)
        if name in ("_target_", "_partial_", "_convert_", "_recursive_", "_args_"):
            continue
        if name not in parameters and not takes_any:
            close = difflib.get_close_matches(name, parameters, n=1, cutoff=0.5)
            takes = ", ".join(known for known in parameters if known != "self")
            hint = (
                f", did you mean {path}.{close[0]}?"
                if close
                else f"; {node._target_} takes {takes}"
            )
            raise UserError(f"{path}.{name}: no such setting{hint}")
        value = node[key]
        if holds_components(value):
            check_component(value, f"{path}.{name}")
        elif value is None and f"{path}.{name}" in _FILLED_IN:
            continue
        elif name in hints and not _matches(value, hints[name]):
            found = str(value)
            raise UserError(f"{path}.{name}={found}: expected {_spell(hints[name])}")


def holds_components(value: Any) -> bool:
    nodes = value if isinstance(value, ListConfig) else [value]
    return any(isinstance(node, DictConfig) and "_target_" in node for node in nodes)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (
        NameError
    ):  # a library's hints that only its type checker can resolve: names are checked all the same
        return {}


def _matches(value: Any, hint: Any) -> bool:
    """Whether a YAML value can stand for a type hint; hints that YAML cannot express pass."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if hint is type(None):
        return value is None
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if origin in (collections.abc.Sequence, list, tuple):
        return isinstance(value, ListConfig) and all(_matches(item, arguments[0]) for item in value)
    return True


def _spell(hint: Any) -> str:
    names = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "a text",
        type(None): "null",
    }
    if hint in names:
        return names[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_spell(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (collections.abc.Sequence, list, tuple):
        return f"a list (each {_spell(arguments[0])})"
    return str(hint)


def build(node: Any, **extra: Any) -> Any:
    """The object that a checked node describes, with plain Python containers inside.

    What its constructor finds wrong with its arguments (ValueError) is the user's to mend; Hydra wraps it, we unwrap it.
    """
    try:
        return instantiate(node, _convert_="all", **extra)
    except InstantiationException as error:
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
