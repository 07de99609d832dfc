"""YAML files of somebody else, read event by event before any of their values is made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

_DEEPEST = 100  # levels


def plain_events(path: Path) -> Iterator[yaml.Event]:
    """Parses a file that must not fill the memory, or Python's stack.

    Args:
        path: The file.

    Yields:
        The events of the file.

    Raises:
        OSError: It cannot be read.
        yaml.YAMLError: It is no YAML.
        ValueError: It is nested too deep, or it has an alias: one in another can fill the memory.
    """
    depth = 0
    with path.open(encoding="utf-8") as file:
        for event in yaml.parse(file, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"it has an alias, *{event.anchor}; expected plain values")
            yield event
