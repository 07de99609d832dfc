"""Configuration: the one module that knows Hydra. Compose, check, instantiate; errors in one line.

A typed root schema rejects a wrong root key or type when the configuration is composed. Below it, nodes with `_target_` are
checked against the constructor that they name (its signature is the schema), and `check` adds the rules that cross fields.
All of that happens before anything is built; neither changes the configuration.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from align_train.cluster import launcher
from align_train.config.check import refuse_missing
from align_train.config.messages import fail, fail_once, in_one_line
from align_train.config.schema import conf_dir
from align_train.errors import UserError

_swept: set[str] = set()  # folders of a sweep's runs


def command(
    task: Callable[[DictConfig], None], *, config_name: str, groups: Sequence[str] = ()
) -> None:
    """Runs a command under Hydra (`--cfg job`, `--help`, sweeps); a UserError becomes one line and exit status 2.

    Commands other than training have their roots in `conf/commands/`, out of sight of the groups: or `evaluate model=RUN`
    would be taken for a choice of the group `model`. groups: those that such a root may choose from all the same.
    """
    for group in groups:
        for file in (conf_dir() / group).glob("*.yaml"):
            ConfigStore.instance().store(group=group, name=file.stem, node=OmegaConf.load(file))
    folder = conf_dir() / "commands"
    folder = folder if (folder / f"{config_name}.yaml").is_file() else conf_dir()
    os.environ["HYDRA_FULL_ERROR"] = (
        "1"  # or Hydra prints its own report and we never see the exception
    )

    composed = False

    def guarded(config: DictConfig) -> None:
        nonlocal composed
        composed = True
        try:
            refuse_missing(config)
            _check_sweep(config)
            task(config)
        except UserError as error:  # in here: on its way out Hydra would add lines of its own
            fail(str(error), status=error.status)
        except OmegaConfBaseException as error:
            fail_once(error)
        except KeyboardInterrupt:
            fail(
                "interrupted; the same command goes on from the last checkpoint, if there is one",
                status=130,
            )
        except BrokenPipeError:  # whoever read our output has gone (`| head`)
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
            )  # or Python complains once more at exit
            sys.exit(141)
        except (
            OSError
        ) as error:  # a path that cannot be made, a disk that is full, wherever it turns out
            fail(
                f"{error.filename or 'a file'}: {error.strerror or error}; check the path, its rights and the space there"
            )

    try:
        hydra.main(version_base="1.3", config_path=str(folder), config_name=config_name)(guarded)()
    except (HydraException, OmegaConfBaseException) as error:
        fail_once(error)
    except ValueError as error:  # Hydra's own, e.g. for a group that is set to null
        if composed:
            raise
        fail(
            f"{in_one_line(error)}; a group such as model or data takes the name of a choice, see --help"
        )


def _check_sweep(config: DictConfig) -> None:
    """A sweep's runs come one after the other in this process, which cannot start others for each, nor be one of many."""
    if HydraConfig.get().mode == RunMode.MULTIRUN and "trainer" in config:
        processes = config.trainer.devices * config.trainer.nodes
        if processes > 1 or launcher.current().started_all:
            raise UserError(
                f"a sweep trains its runs on one process each, here are {processes}: set trainer=cpu or trainer=gpu with "
                f"trainer.devices=1, or start each run by itself, with a name of its own"
            )
        place = f"{config.output_dir}/{config.name}"
        if place in _swept:
            raise UserError(
                f"name={config.name}: two runs of this sweep are called so; put what differs into it, e.g. 'name=run-${{seed}}'"
            )
        _swept.add(place)


def read_settings(path: Path) -> Any:
    """The settings that a run was started or last resumed with."""
    try:
        return OmegaConf.load(path)
    except (OSError, yaml.YAMLError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: cannot be read ({reason}); restore it, or choose another name"
        ) from None


def defaults(*overrides: str) -> Any:
    """The whole configuration as the files have it."""
    GlobalHydra.instance().clear()  # within a command Hydra is at work, and refuses to begin a second time
    with (
        warnings.catch_warnings(),
        hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"),
    ):
        warnings.simplefilter(
            "ignore"
        )  # a group that a command was offered has no schema of its own
        return hydra.compose("train", list(overrides))


def to_yaml(config: Any) -> str:
    """The resolved configuration, without Hydra's own part."""
    return OmegaConf.to_yaml(config, resolve=True)
