"""The settings that a run, or an exported model, recorded in its config.yaml."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from align_train.config.plain import plain_node
from align_train.config.plain_yaml import plain_events
from align_train.config.schema import Node, TrainSettings, conf_dir
from align_train.errors import UserError

# Settings of several values that did not exist when the first runs began: a teacher and adapters,
# which are off by default, and rates, which count only as the optimizer's.
_SEVERAL = ("distillation", "lora", "rates")


def read_nodes(path: Path) -> Node:
    """Reads a config.yaml as a plain mapping, whatever stands in it.

    Args:
        path: The file of a run, or of an exported model, which has only the key `model`.

    Returns:
        The settings, resolved; empty if the file holds no mapping.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        # OmegaConf's loader, as it wrote the file: it reads 1e-3 as a number, PyYAML as a text.
        _refuse_acting(path)
        config = OmegaConf.load(path)
        plain = OmegaConf.to_container(config, resolve=True)
    except (OSError, yaml.YAMLError, ValueError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: cannot be read ({reason}); restore it, or choose another name"
        ) from None

    if not isinstance(plain, dict):
        return {}
    return {str(key): value for key, value in plain.items()}


def _refuse_acting(path: Path) -> None:
    """Refuses what no config.yaml of ours has, and a stranger's may: it comes from the hub, too.

    `${oc.env:NAME}` would bring a variable of this machine into settings that a card publishes.
    """
    for event in plain_events(path):
        if isinstance(event, yaml.ScalarEvent) and "${" in event.value and ":" in event.value:
            raise ValueError("it has a ${…:…} to be computed; expected plain values")


def read_run(path: Path) -> TrainSettings:
    """Reads the settings that a run was started or last resumed with.

    Args:
        path: The run's config.yaml.

    Returns:
        The typed settings.

    Raises:
        UserError: The file cannot be read, or does not hold the settings of a run.
    """
    try:
        return _typed(_with_new_keys(read_nodes(path)))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not the settings of a run ({reason}); restore it") from None


def _with_new_keys(plain: Node) -> Node:
    """Adds the settings that did not exist when the run began: null, if that is allowed.

    A new setting that may be null must therefore mean by null what runs did before it existed.
    One that may not be null needs a line of its own here.
    """
    types = get_type_hints(TrainSettings)
    nullable = [name for name, kind in types.items() if kind is Any or NoneType in get_args(kind)]
    # Unresolved: its list of groups refers to the choice of the model.
    usual = plain_node(OmegaConf.load(conf_dir() / "train.yaml"))
    several = {name: usual[name] for name in _SEVERAL}
    return dict.fromkeys(nullable) | several | plain


def with_values(settings: TrainSettings, values: Mapping[str, object]) -> TrainSettings:
    """Copies settings with other values, as a line of the lineage records them.

    Args:
        settings: The settings of a run; they stay as they are.
        values: By dotted key. None stands for null, and for a key that did not exist.

    Returns:
        The settings with these values.
    """
    plain = dataclasses.asdict(settings)
    for key, value in values.items():
        # A parent may be null now, if the component was taken out since.
        *parents, last = key.split(".")
        node = plain
        for name in parents:
            if not isinstance(node.get(name), dict):
                node[name] = {}
            node = node[name]
        node[last] = copy.deepcopy(value)
    return _typed(_without_hollow(plain))


def _without_hollow(node: object) -> Any:
    """Makes null what has an empty `_target_`: a component that did not exist at the time."""
    if not isinstance(node, dict):
        return node
    if "_target_" in node and node["_target_"] is None:
        return None
    return {name: _without_hollow(item) for name, item in node.items()}


def to_yaml(settings: TrainSettings | Node) -> str:
    """Spells settings as a config.yaml."""
    plain = dataclasses.asdict(settings) if isinstance(settings, TrainSettings) else settings
    return OmegaConf.to_yaml(OmegaConf.create(plain))


def _typed(plain: Node) -> TrainSettings:
    config = OmegaConf.merge(OmegaConf.structured(TrainSettings), plain)
    settings: TrainSettings = OmegaConf.to_object(config)  # type: ignore[assignment]
    return settings
