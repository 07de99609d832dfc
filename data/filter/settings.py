"""The settings of `python -m data.filter`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data.filter.rules import Rules


@dataclass
class ColumnNames:
    """The source's columns; None means the first of the usual names in `data/tables/find.py`."""

    image: str | None
    text: str | None
    width: str | None
    height: str | None
    nsfw: str | None
    phash: str | None


@dataclass
class FilterSettings:
    """`conf/commands/filter.yaml` explains each key and has the defaults."""

    source: Any  # a path or a list of paths; Hydra may take one for a number
    to: str
    engine: str
    rules: Rules
    columns: ColumnNames
    memory_gb: float
    threads: int | None
    temporary: str | None
    options: dict[str, Any]
    examples: int
