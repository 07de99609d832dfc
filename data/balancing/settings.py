"""The settings of `python -m data.balance`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from align_train.config.field_marks import TEXTS, Paths


@dataclass
class BalanceSettings:
    """`conf/commands/balance.yaml` explains each key and has the defaults."""

    source: Paths = field(metadata=TEXTS)
    to: str
    threshold: int
    write: str
    entries: str | None
    least_count: int
    lower: bool
    most: float
    unmatched: float
    seed: int
    caption: Any = field(metadata=TEXTS)  # a text, a list of texts, or None
    image: str | None
    keys: str | None
    storage_options: Any  # a mapping or None
    memory_gb: float
