"""A command of ours composed in this process: its settings typed and checked, and no more.

What would import torch, open a file or ask a hub is left out: the command's task, and looking at
models and data. Price: a quarter of a second.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from unittest import mock

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from align_train.config import command, compose
from align_train.config.check import check_root
from align_train.config.messages import ending_in_one_line
from align_train.config.schema import TrainSettings
from align_train.config.sweep import sweep_of

_command: Any = command.command
_load_file: Any = OmegaConf.load
_files: dict[str, Any] = {}


def error_of(
    module: str,
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What `python -m module …` says against its settings.

    Args:
        module: E.g. `align_train.evaluate`.
        arguments: Settings and options.
        folder: The working directory.
        environment: Variables that it gets beside this process's own.

    Returns:
        One line; empty if it says nothing.
    """
    said = io.StringIO()
    Plugins.instance()  # adds Hydra's own schemas to the store, once for this process
    with (
        mock.patch.object(OmegaConf, "load", _load),
        mock.patch.object(command, "command", _composed),
        mock.patch.object(sys, "argv", [module, *arguments]),
        mock.patch.object(ConfigStore.instance(), "repo", _fresh_repo()),
        mock.patch.object(compose, "_offered", set()),
        mock.patch.dict(os.environ, environment or {}),
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(said),
    ):
        status = _status(module)
    return said.getvalue().strip() or f"exit status {status}" if status else ""


def _load(file: IO[str] | Path) -> Any:
    """A file of settings, read once: half of a command's time would be the parser's."""
    path = str(file if isinstance(file, Path) else file.name)
    if path not in _files:
        _files[path] = _load_file(file)
    return copy.deepcopy(_files[path])


def _fresh_repo() -> dict[str, Any]:
    """Hydra's store without the groups that other tests have offered to a command."""
    repo = _copy(ConfigStore.instance().repo)
    for group in compose._offered:
        repo.pop(group, None)
    return repo


def _copy(repo: dict[str, Any]) -> dict[str, Any]:
    """The folders of Hydra's store: a command adds its own schemas, which another must not find."""
    return {
        name: _copy(inside) if isinstance(inside, dict) else inside for name, inside in repo.items()
    }


def _status(module: str) -> int:
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _composed(
    task: Callable[[Any], object],
    *,
    config_name: str,
    schema: type[Any],
    groups: Sequence[str] = (),
    sweep: object = None,
    optional: Sequence[str] = (),
    **_looks_at_models: Any,
) -> None:
    """`command` of `align_train.config.command`, without the task."""
    words = sys.argv[1:]
    if not any(word.startswith("-") for word in words):
        # As below, in half the time.
        with ending_in_one_line():
            compose.register(config_name, schema, groups)
            if schema is TrainSettings:
                check_root(compose.compose_training(*words))
            else:
                compose.compose_command(config_name, schema, *words, optional=optional)
        return

    def checked(settings: Any) -> None:
        if schema is TrainSettings:
            check_root(settings)

    # `--help` is answered from the docstring of the task's module.
    checked.__module__ = task.__module__
    try:
        _command(
            checked,
            config_name=config_name,
            schema=schema,
            groups=groups,
            sweep=_is_sweep if sweep else None,
            optional=optional,
        )
    finally:
        # Hydra leaves its objects, which the next command must not find.
        GlobalHydra.instance().clear()


def _is_sweep(arguments: Sequence[str]) -> bool:
    """Composes the first run of a sweep, if the line asks for one."""
    asked = sweep_of(arguments)
    if asked is not None:
        check_root(asked.settings([f"{swept.key}={swept.first}" for swept in asked.space]))
    return asked is not None
