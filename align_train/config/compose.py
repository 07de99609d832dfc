"""Files and overrides -> typed settings: how every command begins.

`command` runs a task under Hydra. Hydra composes YAML files and the command line under the task's
schema, which rejects an unknown key or a wrong type. The result is resolved once and becomes the
schema's dataclass; nothing outside this room meets Hydra's or OmegaConf's objects.

Price: a wrong setting ends the command before torch is imported.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import sys
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

from align_train.cluster import launcher
from align_train.cluster.limits import wait_briefly
from align_train.config.chosen import words_given
from align_train.config.components import build, check_component
from align_train.config.help import answer_to
from align_train.config.lengths import with_one_length
from align_train.config.messages import (
    ending_in_one_line,
    fail,
    in_one_line,
    no_such_setting,
    report_once,
)
from align_train.config.missing import make_null, refuse_missing
from align_train.config.output import escaping_output
from align_train.config.overrides import as_typed, line_as_typed
from align_train.config.plain import plain_node
from align_train.config.rates import refuse_unread_rates
from align_train.config.resolvers import register_resolvers
from align_train.config.schema import Node, TrainSettings, conf_dir
from align_train.errors import UserError
from align_train.files import settle_home

_GROUPS_TAKE_NAMES = "a group such as model or data takes the name of a choice, see --help"

FillIn = Callable[[Node, Node], Node]
"""The nodes of model and data -> settings that take the place of others, by dotted key."""

S = TypeVar("S")

_offered: set[str] = set()  # groups of conf/ that the command of this process may choose from

register_resolvers()


def command(
    task: Callable[[S], object],
    *,
    config_name: str,
    schema: type[S],
    groups: Sequence[str] = (),
    fill_in: FillIn | None = None,
    before_fill_in: Callable[[S], object] | None = None,
    sweep: Callable[[Sequence[str]], bool] | None = None,
    optional: Sequence[str] = (),
) -> None:
    """Runs a command: `--cfg job`, `--help`, sweeps; a user's error becomes one line.

    Args:
        task: Receives the typed settings; once for each run of a sweep.
        config_name: The name of the root's YAML file.
        schema: The dataclass of the settings, without defaults.
        groups: Groups of conf/ that a root in `conf/commands/` may choose from.
        fill_in: Given to `_typed`.
        before_fill_in: Refuses settings before `fill_in` imports what takes seconds; None: nothing.
        sweep: Runs the sweep that a line asks for, if it does; None: Hydra runs it in this process.
        optional: Keys that a run must be given and this command need not: they become null.
    """
    escaping_output()
    register(config_name, schema, groups)
    if _is_answered(task, config_name, schema, groups):
        return
    # Kept, because `line_as_typed` puts quoted words in its place below.
    typed = sys.argv
    composed = False

    @ending_in_one_line()  # in here: on their way out Hydra would add lines of its own
    def run(config: DictConfig) -> None:
        nonlocal composed
        composed = True
        # Lightning starts further ranks by this line, and each of them reads it as we did.
        sys.argv = typed
        # Every process of a run composes the same settings, and would print the same error.
        with report_once():
            settings = _settled(config, schema, fill_in, before_fill_in, optional)
        task(settings)

    folder = str(conf_dir() / _folder(config_name))
    main = hydra.main(version_base="1.3", config_path=folder, config_name=config_name)(run)
    try:
        with ending_in_one_line():
            _settle_process()
            with report_once():
                sys.argv = line_as_typed(typed, schema, partial(plain_settings, config_name))
            if sweep is None or not sweep(typed):
                main()
            # At Python's exit a reader that has gone (`| head`) would be an error.
            print(end="", flush=True)
    except (ValueError, TypeError) as error:
        if composed:
            raise
        # Hydra's own, for a group that is set to null or to a list of numbers.
        fail(f"{in_one_line(error)}; {_GROUPS_TAKE_NAMES}")


def _settle_process() -> None:
    """Sets the environment of this process and its children, before anything imports torch."""
    settle_home()
    wait_briefly()
    # Otherwise Hydra prints its own report and we never see the exception.
    os.environ["HYDRA_FULL_ERROR"] = "1"


def _settled(
    config: DictConfig,
    schema: type[S],
    fill_in: FillIn | None,
    before_fill_in: Callable[[S], object] | None,
    optional: Sequence[str],
) -> S:
    """The typed settings of a command that begins; see `command` for the parameters."""
    # In this order: a missing setting is named before a reference to it fails.
    make_null(config, optional)
    refuse_missing(config)
    refuse_unread_rates(config, words_given())
    _use_launcher(config)
    if before_fill_in is not None:
        before_fill_in(_typed(config, schema))
    return _typed(config, schema, fill_in)


def _is_answered(
    task: Callable[[S], object], config_name: str, schema: type[S], groups: Sequence[str]
) -> bool:
    """Prints what `--help` or `--version` asks for, if the line has one of them."""
    with ending_in_one_line():
        about = sys.modules[task.__module__].__doc__ or ""
        file = conf_dir() / _folder(config_name) / f"{config_name}.yaml"
        compose = partial(plain_settings, config_name)
        answer = answer_to(sys.argv, about, file, schema, compose, groups)
        print(answer, end="\n" if answer else "", flush=True)
    return bool(answer)


def _folder(config_name: str) -> str:
    """The folder of a root's YAML file, within conf/.

    Other roots than those of a run and its plan lie in `conf/commands/`, out of sight of the
    groups: otherwise `evaluate model=RUN` would be a choice of the group `model`.
    """
    is_command = (conf_dir() / "commands" / f"{config_name}.yaml").is_file()
    return "commands" if is_command else ""


def compose_training(*overrides: str, fill_in: FillIn | None = None) -> TrainSettings:
    """Composes the settings of a run as its command would.

    Args:
        overrides: As on the command line, e.g. `model=b7_base`.
        fill_in: Given to `_typed`.

    Returns:
        The typed settings, not checked yet.

    Raises:
        UserError: A setting that must be given is missing.
    """
    config = _compose("train", TrainSettings, overrides)
    refuse_missing(config)
    refuse_unread_rates(config, overrides)
    return _typed(config, TrainSettings, fill_in)


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
        optional: As of `command`.
        fill_in: Given to `_typed`.

    Returns:
        The typed settings.

    Raises:
        UserError: A setting that must be given is missing.
    """
    config = _compose(config_name, schema, overrides)
    make_null(config, optional)
    refuse_missing(config)
    return _typed(config, schema, fill_in)


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
        folder = conf_dir() / _folder(config_name)
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


def _use_launcher(config: DictConfig) -> None:
    """Builds the launcher that the settings name, before anything asks for rank or world size."""
    for key in ("launcher", "trainer.launcher"):
        node: object = OmegaConf.select(config, key)
        if node is None:
            continue
        if not isinstance(node, DictConfig) or "_target_" not in node:
            raise UserError(f"{key}={node}: expected a node with _target_, or null")

        plain = plain_node(node, resolve=True)
        check_component(plain, key)
        built = build(plain)
        # Not isinstance: it would read the properties, which may ask for what is not set yet.
        if launcher.Launcher not in type(built).__mro__:
            raise UserError(
                f"{key}._target_={plain['_target_']}: makes no launcher; derive it from "
                f"align_train.cluster.launcher.Launcher"
            )
        launcher.use(built)


def _typed(config: DictConfig, schema: type[S], fill_in: FillIn | None = None) -> S:
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
            if field.metadata.get("unresolved"):
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
