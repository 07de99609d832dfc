"""The settings of `python -m data.filter`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from align_train.config.schema import TEXTS, Paths
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

    source: Paths = field(metadata=TEXTS)
    to: str
    engine: str
    rules: Rules
    columns: ColumnNames
    memory_gb: float
    threads: int | None
    temporary: str | None
    options: dict[str, Any]
    examples: int
