"""`gpu=path/to/mine.yaml`: a choice of a group that is a file of the user's own.

Elsewhere a user's own choices lie in a folder of groups, `--config-dir`. A single file needs none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from align_train.config.plain_yaml import plain_events
from align_train.config.schema import Node
from align_train.errors import UserError, one_line, shown

_CHOICE = "own_file"
_SUFFIXES = (".yaml", ".yml", ".json")
_LARGEST = 100_000  # bytes


def with_own_file(words: Sequence[str], group: str, *, target: str) -> list[str]:
    """Makes a file that the line names a choice of a group.

    Args:
        words: The command's line.
        group: A group of conf/, e.g. `gpu`.
        target: The class that the file's settings are for, unless it names another.

    Returns:
        The line for Hydra.

    Raises:
        UserError: The file cannot be read, or holds no settings.
    """
    given = []
    for word in words:
        key, _, value = word.partition("=")
        if key.lstrip("+") == group and value.lower().endswith(_SUFFIXES):
            # Hydra finds choices by name, so its store gets the file's content under a fixed one.
            node = {"_target_": target} | read_mapping(value, key=group)
            ConfigStore.instance().store(group=group, name=_CHOICE, node=node)
            word = f"{key}={_CHOICE}"
        given.append(word)
    return given


def read_mapping(path: str, *, key: str) -> Node:
    """Reads a small YAML or JSON file of the user's.

    Args:
        path: The file.
        key: The setting that names it, for errors.

    Returns:
        Its settings, unresolved.

    Raises:
        UserError: The file cannot be read, or holds no settings.
    """
    setting = f"{key}={shown(path)}"
    try:
        _refuse_filling(Path(path).expanduser())
        # OmegaConf's loader reads 1e-3 as a number, PyYAML's as a text.
        plain = OmegaConf.to_container(OmegaConf.load(Path(path).expanduser()))
    except FileNotFoundError:
        raise UserError(
            f"{setting}: no such file; give a YAML file or a choice of --help"
        ) from None
    except (OSError, yaml.YAMLError, ValueError, OmegaConfBaseException) as error:
        reason = one_line(error, 120)
        raise UserError(f"{setting}: cannot be read ({reason}); expected a YAML file") from None

    if not isinstance(plain, dict) or not plain:
        raise UserError(f"{setting}: expected settings, one `key: value` a line")
    return {str(name): value for name, value in plain.items()}


def _refuse_filling(path: Path) -> None:
    """Refuses a file that would fill the memory or the stack."""
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST:,} bytes")
    if not path.is_file():
        raise ValueError("it is no file")  # a named pipe would hold the command for ever
    deque(plain_events(path), maxlen=0)
