"""The line that a command's settings were composed from: choices of groups, and overrides."""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from align_train.config.schema import conf_dir


def choice_of(group: str) -> str:
    """Names the choice of a group that a command's settings were composed with.

    Args:
        group: E.g. `model`.

    Returns:
        E.g. `tiny`; empty if no command has composed settings, or if the group has no choice.
    """
    # Hydra keeps no record of settings that Python code composes without a command.
    if not HydraConfig.initialized():
        return ""
    return HydraConfig.get().runtime.choices.get(group) or ""


def words_given() -> list[str]:
    """The overrides of the command's line; none if no command has composed settings."""
    if not HydraConfig.initialized():
        return []
    return [str(word) for word in HydraConfig.get().overrides.task]


def folders_of_groups() -> list[Path]:
    """The folders that choices come from: conf/ and, in a command, a user's own."""
    if not HydraConfig.initialized():
        return [conf_dir()]
    # Hydra's own choices lie in a Python package, and schemas in its store: neither is a folder.
    sources = HydraConfig.get().runtime.config_sources
    return [Path(source.path) for source in sources if source.schema == "file"]
