"""A text in place of a component's number, seen without its class, which would bring torch."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from omegaconf import OmegaConf

from align_train.config.plain import plain_node
from align_train.config.schema import Node, conf_dir
from align_train.errors import UserError, shown

# How texts of YAML begin that stand for numbers (`resolvers.py`, and conf/rates).
_COMPUTED = ("${scaled:", "${tenth:", "${rates.")


@cache
def contents(folder: Path) -> list[Node]:
    """Reads the files of a group; once, because every command asks for them several times.

    Args:
        folder: The group's folder in conf/.

    Returns:
        The files' settings, unresolved, in the order of the files' names.
    """
    found = []
    for file in sorted(folder.glob("*.yaml")):
        # PyYAML would read 4e-3 as a text.
        found.append(plain_node(OmegaConf.load(file)))
    return found


def check_numbers(node: object, group: str) -> None:
    """Compares a component with the files of its group that name the same class.

    Args:
        node: The component; anything else is left alone.
        group: Its key, which is the folder in conf/ too.

    Raises:
        UserError: A file has a number where the component has a text.
    """
    if not isinstance(node, dict):
        return
    for content in contents(conf_dir() / group):
        # A file of `@package _global_` has the component under its key.
        for default in (content, content.get(group)):
            if isinstance(default, dict) and default.get("_target_") == node.get("_target_"):
                _compare(node, default, group)


def _compare(node: Node, default: Node, path: str) -> None:
    for name, number in default.items():
        value = node.get(name)
        if isinstance(number, dict) and isinstance(value, dict):
            # Another class may mean something else by a setting of the same name.
            if number.get("_target_") == value.get("_target_"):
                _compare(value, number, f"{path}.{name}")
        elif isinstance(value, str) and (_is_number(number) or is_computed(number)):
            raise UserError(f"{path}.{name}={shown(value)}: expected a number")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_computed(value: object) -> bool:
    """Whether a value of a group's file is computed from numbers of other settings."""
    return isinstance(value, str) and value.startswith(_COMPUTED)
