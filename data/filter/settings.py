"""The settings of `python -m data.filter`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from align_train.config.schema import MISSING
from data.filter.rules import Rules


@dataclass
class ColumnNames:
    """The source's columns; None means the first of the usual names in `data/tables/find.py`."""

    image: str | None = MISSING
    text: str | None = MISSING
    width: str | None = MISSING
    height: str | None = MISSING
    nsfw: str | None = MISSING
    phash: str | None = MISSING


@dataclass(kw_only=True)
class FilterConfig:
    """`conf/commands/filter.yaml` explains each key and has the defaults.

    The nested ones are made here all the same: the error for a misspelt key looks for its like in
    them, before the file is read.
    """

    source: Any  # a path or a list of paths; Hydra may take one for a number
    to: str
    engine: str
    rules: Rules = field(default_factory=Rules)
    columns: ColumnNames = field(default_factory=ColumnNames)
    memory_gb: float
    threads: int | None
    temporary: str | None
    options: dict[str, Any]
    examples: int


ConfigStore.instance().store(name="filter_schema", node=FilterConfig)
