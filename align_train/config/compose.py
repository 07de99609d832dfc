"""Files and overrides -> typed settings, for every command.

Hydra composes YAML files and overrides under a schema, which rejects an unknown key or a wrong
type. The result is resolved once and becomes the schema's dataclass; nothing outside this room
meets Hydra's or OmegaConf's objects.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from align_train.config.field_marks import UNRESOLVED
from align_train.config.lengths import with_one_length
from align_train.config.messages import in_one_line, no_such_setting
from align_train.config.missing import make_null, refuse_missing
from align_train.config.overrides import as_typed
from align_train.config.plain import plain_node
from align_train.config.rates import refuse_unread_rates
from align_train.config.resolvers import register_resolvers
from align_train.config.schema import Node, TrainSettings, conf_dir
from align_train.errors import UserError

FillIn = Callable[[Node, Node], Node]
"""The nodes of model and data -> settings that take the place of others, by dotted key."""

S = TypeVar("S")

_offered: set[str] = set()  # groups of conf/ that the command of this process may choose from

register_resolvers()


def folder_of(config_name: str) -> str:
    """The folder of a root's YAML file, within conf/.

    Other roots than those of a run and its plan lie in `conf/commands/`, out of sight of the
    groups: otherwise `evaluate model=RUN` would be a choice of the group `model`.

    Args:
        config_name: The name of the root's YAML file.

    Returns:
        `commands`; empty for a file in conf/ itself.
    """
    is_command = (conf_dir() / "commands" / f"{config_name}.yaml").is_file()
    return "commands" if is_command else ""


def compose_training(*overrides: str, fill_in: FillIn | None = None) -> TrainSettings:
    """Composes the settings of a run as its command would.

    Args:
        overrides: As on the command line, e.g. `model=b7_base`.
        fill_in: Given to `typed_settings`.

    Returns:
        The typed settings, not checked yet.

    Raises:
        UserError: A setting that must be given is missing.
    """
    config = _compose("train", TrainSettings, overrides)
    refuse_missing(config)
    refuse_unread_rates(config, overrides)
    return typed_settings(config, TrainSettings, fill_in)


def compose_command(
    config_name: str,
    schema: type[S],
    *overrides: str,
    optional: Sequence[str] = (),
    fill_in: FillIn | None = None,
) -> S:
    """Composes the settings of another command than training as that command would.

    Args:
        config_name: The name of the command's YAML file.
        schema: The dataclass of its settings.
        overrides: As on the command line.
        optional: Keys that this command need not be given: they become null.
        fill_in: Given to `typed_settings`.

    Returns:
        The typed settings.

    Raises:
        UserError: A setting that must be given is missing.
    """
    config = _compose(config_name, schema, overrides)
    make_null(config, optional)
    refuse_missing(config)
    return typed_settings(config, schema, fill_in)


def unresolved_training(*overrides: str) -> DictConfig:
    """Composes the settings of a run with their interpolations; values may be missing."""
    return _compose("train", TrainSettings, overrides)


def _compose(config_name: str, schema: type, overrides: Sequence[str]) -> DictConfig:
    register(config_name, schema)
    compose = partial(plain_settings, config_name)
    words = with_one_length(as_typed(overrides, schema, compose), schema)
    return _compose_words(config_name, words)


def plain_settings(config_name: str, words: Sequence[str]) -> Node:
    """Composes settings that stay unresolved, with Hydra's own under `hydra`.

    Args:
        config_name: The name of the root's YAML file.
        words: Overrides for Hydra.

    Raises:
        UserError: They cannot be composed.
    """
    try:
        config = _compose_words(config_name, words, with_hydra=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(in_one_line(error)) from None
    return plain_node(config)


def _compose_words(
    config_name: str, words: Sequence[str], *, with_hydra: bool = False
) -> DictConfig:
    # Within a command Hydra is at work, and refuses to begin a second time.
    GlobalHydra.instance().clear()
    with warnings.catch_warnings():
        # A group that a command was offered has no schema of its own.
        warnings.simplefilter("ignore")
        folder = conf_dir() / folder_of(config_name)
        with (
            _without_groups_of(folder),
            hydra.initialize_config_dir(str(folder), version_base="1.3"),
        ):
            return hydra.compose(config_name, list(words), return_hydra_config=with_hydra)


@contextmanager
def _without_groups_of(folder: Path) -> Iterator[None]:
    """Forgets for a while the groups that a command was offered and that a folder has as files.

    `evaluate` is offered `eval/`, and its report composes the defaults of training, which has the
    same group. Hydra would take the one for the schema of the other.
    """
    repository = ConfigStore.instance().repo
    twice = [group for group in _offered if (folder / group).is_dir() and group in repository]
    kept = {group: repository.pop(group) for group in twice}
    try:
        yield
    finally:
        repository.update(kept)


def register(config_name: str, schema: type, groups: Sequence[str] = ()) -> None:
    """Makes a schema, and groups of conf/, known to Hydra.

    Args:
        config_name: The name of the root's YAML file.
        schema: The dataclass of the settings.
        groups: Groups of conf/ that a root in `conf/commands/` may choose from.
    """
    store = ConfigStore.instance()
    store.store(name=f"{config_name}_schema", node=schema)
    if schema is not TrainSettings and issubclass(schema, TrainSettings):
        store.store(name="train_schema", node=TrainSettings)  # its root starts from train.yaml
    for group in groups:
        _offered.add(group)
        for file in (conf_dir() / group).glob("*.yaml"):
            store.store(group=group, name=file.stem, node=OmegaConf.load(file))


def typed_settings(config: DictConfig, schema: type[S], fill_in: FillIn | None = None) -> S:
    """Resolves composed settings and makes them the schema's dataclass.

    Args:
        config: Composed settings, none of which is missing.
        schema: The dataclass.
        fill_in: Changes settings before interpolations between them are resolved; None: nothing.

    Returns:
        The settings; a field marked `UNRESOLVED` keeps its interpolations.

    Raises:
        UserError: A key is no field of the dataclass, or a field is missing.
    """
    _refuse_others(config, schema)
    # Hydra's own object stays as it is.
    config = copy.deepcopy(config)
    with open_dict(config):
        if fill_in is not None:
            # The data refers to the model (`image_size: ${model.image_size}`), so it waits.
            model = plain_node(config.model, resolve=True)
            data = plain_node(config.data)
            for key, value in fill_in(model, data).items():
                OmegaConf.update(config, key, value, merge=False)

        # Their references lead into a run's settings, so resolving them here would fail.
        kept = {}
        plain = plain_node(config)
        for field in dataclasses.fields(schema):  # type: ignore[arg-type]
            if field.metadata.keys() & UNRESOLVED.keys():
                kept[field.name] = plain[field.name]
                config[field.name] = None

    # This resolves what is left, and makes plain lists and dicts of the components' nodes.
    settings: S = OmegaConf.to_object(config)  # type: ignore[assignment]
    for name, value in kept.items():
        setattr(settings, name, value)
    return settings


def _refuse_others(config: DictConfig, schema: type, path: str = "") -> None:
    """Refuses other keys than the fields: Hydra lets `+key=…` and `~key` through."""
    fields = [field.name for field in dataclasses.fields(schema)]
    for name in fields:
        if config._get_node(name) is None:
            raise UserError(f"{path}{name} is not set; give {path}{name}=…")

    for name in map(str, config):
        if name not in fields:
            raise UserError(no_such_setting(path + name))

        node = config._get_node(name)
        inner = OmegaConf.get_type(node) if isinstance(node, DictConfig) else None
        if dataclasses.is_dataclass(inner):
            assert isinstance(node, DictConfig)
            _refuse_others(node, inner, f"{path}{name}.")
