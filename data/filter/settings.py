"""The settings of `python -m data.filter`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from align_train.config.schema import MISSING
from data.filter.rules import Rules


@dataclass
class ColumnNames:
    image: str | None = None
    text: str | None = None
    width: str | None = None
    height: str | None = None
    nsfw: str | None = None
    phash: str | None = None


@dataclass
class FilterConfig:
    """`conf/commands/filter.yaml` says what each key is for."""

    source: Any = MISSING
    to: str = MISSING
    engine: str = "duckdb"
    rules: Rules = field(default_factory=Rules)
    columns: ColumnNames = field(default_factory=ColumnNames)
    memory_gb: float = 4.0
    threads: int | None = None
    temporary: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    examples: int = 5


ConfigStore.instance().store(name="filter_schema", node=FilterConfig)
