"""How every command begins: Hydra composes its line, and its task gets typed settings.

A wrong setting ends the command with one line, before torch is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import hydra
from omegaconf import DictConfig, OmegaConf

from align_train.cluster import launcher
from align_train.cluster.limits import wait_briefly
from align_train.config.chosen import words_given
from align_train.config.components import build, check_component
from align_train.config.compose import FillIn, folder_of, plain_settings, register, typed_settings
from align_train.config.help import answer_to
from align_train.config.messages import ending_in_one_line, fail, in_one_line, report_once
from align_train.config.missing import make_null, refuse_missing
from align_train.config.output import escaping_output
from align_train.config.overrides import line_as_typed
from align_train.config.plain import plain_node
from align_train.config.rates import refuse_unread_rates
from align_train.config.schema import conf_dir
from align_train.errors import UserError
from align_train.files import settle_home

_GROUPS_TAKE_NAMES = "a group such as model or data takes the name of a choice, see --help"

S = TypeVar("S")


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
        fill_in: Given to `typed_settings`.
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

    folder = str(conf_dir() / folder_of(config_name))
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
        before_fill_in(typed_settings(config, schema))
    return typed_settings(config, schema, fill_in)


def _is_answered(
    task: Callable[[S], object], config_name: str, schema: type[S], groups: Sequence[str]
) -> bool:
    """Prints what `--help` or `--version` asks for, if the line has one of them."""
    with ending_in_one_line():
        about = sys.modules[task.__module__].__doc__ or ""
        file = conf_dir() / folder_of(config_name) / f"{config_name}.yaml"
        compose = partial(plain_settings, config_name)
        answer = answer_to(sys.argv, about, file, schema, compose, groups)
        print(answer, end="\n" if answer else "", flush=True)
    return bool(answer)


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
