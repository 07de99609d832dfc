"""The settings of a run as a report shows them: by group, and what differs from the defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from align_train.commands.changes import by_dotted_key
from align_train.config.compose import compose_training
from align_train.config.saved import read_nodes
from align_train.errors import UserError
from align_train.pretrained.published import published

# They say where and how a run was started, and differ always.
_OF_THIS_START = ("name", "output_dir", "accept", "dry_run")

_NO_GROUP = "run"  # of settings at the root


class Setting(NamedTuple):
    """A setting beside its default, or beside those of other runs.

    Attributes:
        key: Dotted.
        values: As spelled.
    """

    key: str
    values: tuple[str, ...]


def read_settings(path: Path) -> dict[str, object]:
    """Reads a config.yaml by dotted key, without local paths and credentials.

    Args:
        path: The file. One of an earlier version, with other keys, will do.

    Raises:
        UserError: It cannot be read.
    """
    return by_dotted_key(published(read_nodes(path)))


def differences(settings: Mapping[str, object]) -> list[Setting] | None:
    """Compares settings with those of a run without any words on its command line.

    Args:
        settings: By dotted key.

    Returns:
        Those that differ, each with its default. Settings that the run does not know, as one of an
        earlier version, are left out. None: the defaults cannot be composed.
    """
    try:
        # Published as well: otherwise each path would differ from its own last name.
        usual = by_dotted_key(published(asdict(compose_training())))
    except (UserError, ValueError):
        return None
    found = differing([settings, usual])
    return [setting for setting in found if _is_known(setting.key, settings)]


def _is_known(key: str, settings: Mapping[str, object]) -> bool:
    """Whether settings have a key, or null in the place of what it belongs to."""
    parts = key.split(".")
    return any(".".join(parts[:end]) in settings for end in range(1, len(parts) + 1))


def differing(runs: Sequence[Mapping[str, object]]) -> list[Setting]:
    """Finds the settings in which runs differ.

    Args:
        runs: The settings of each, by dotted key. A key that one does not have is null there.
    """
    keys = dict.fromkeys(chain.from_iterable(runs))
    found = []
    for key in keys:
        values = tuple(spell_setting(settings.get(key)) for settings in runs)
        if len(set(values)) > 1 and key not in _OF_THIS_START:
            found.append(Setting(key, values))
    return found


def by_group(settings: Mapping[str, object]) -> dict[str, list[Setting]]:
    """Sorts settings by the first word of their keys; those without one come first."""
    groups: dict[str, list[Setting]] = {_NO_GROUP: []}
    for key, value in settings.items():
        group, dot, _ = key.partition(".")
        one = Setting(key, (spell_setting(value),))
        groups.setdefault(group if dot else _NO_GROUP, []).append(one)
    return {group: members for group, members in groups.items() if members}


def spell_setting(value: object) -> str:
    """Spells a value as YAML would."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        # In short only if that is still the same number.
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(spell_setting, value))}]"
    return str(value)
