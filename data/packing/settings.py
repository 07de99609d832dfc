"""The settings of `data.pack`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align_train.config.schema import TEXTS, Paths
from align_train.errors import UserError, shown
from align_train.files import check_writable

_LEAST_VOCABULARY = 10  # tokens: five special ones and a few letters


@dataclass
class PackSettings:
    """`conf/commands/pack.yaml` explains each key and has the defaults."""

    source: Paths = field(metadata=TEXTS)
    to: str
    root: str | None
    path: str | None
    text: list[str]
    columns: list[str]
    separator: str | None
    where: dict[str, Any] = field(metadata=TEXTS)  # a value, or a list of values, by column
    names: str | None
    storage_options: Any  # a mapping or None
    hub_config: str | None
    hub_revision: str | None
    skip_missing: bool
    max_bad_share: float
    pairs_per_shard: int
    vocabulary: int | None
    seed: int


def check(settings: PackSettings, to: Path) -> None:
    """Checks the settings before anything is read.

    Raises:
        UserError: The folder `to` exists or cannot be made, or a number is out of range.
    """
    if to.exists():
        raise UserError(f"to={settings.to} exists; remove it or choose another folder")
    check_writable(to, "give to=…, a new folder in one that you can write")
    if not isinstance(settings.storage_options, Mapping | None):
        raise UserError(
            f"storage_options={shown(settings.storage_options)}: expected settings, e.g. "
            f"{{anon:true}}, or null"
        )
    if settings.pairs_per_shard < 1:
        raise UserError(f"pairs_per_shard={settings.pairs_per_shard}: expected at least 1")
    if not 0 <= settings.max_bad_share <= 1:
        raise UserError(f"max_bad_share={settings.max_bad_share}: expected a share of 0 to 1")
    if settings.vocabulary is not None and settings.vocabulary < _LEAST_VOCABULARY:
        raise UserError(
            f"vocabulary={settings.vocabulary}: expected at least {_LEAST_VOCABULARY} tokens, or "
            f"null"
        )
