"""The settings of `data.pack`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align_train.config.field_marks import TEXTS, Paths
from align_train.errors import UserError, shown

from ..tables.paths import check_storage_options
from .beside import check_place
from .trainers import DEFAULT_KIND, check_kind

# What `data.pack` puts into its folder beside the shards, if it is asked to.
TOKENIZER = "tokenizer"
HELD_OUT = "held_out"

_LEAST_VOCABULARY = 10  # tokens: five special ones and a few letters
_MOST_VOCABULARY = 1_000_000  # memory for all of them is taken at once
_MOST_PAIRS = 1_000_000_000  # of a shard


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
    held_out: float
    vocabulary: int | None
    vocabulary_kind: str
    seed: int


def check(settings: PackSettings, to: Path) -> None:
    """Checks the settings before anything is read.

    Raises:
        UserError: The folder `to` exists or cannot be made, or a number is out of range.
    """
    check_place(settings.to, to)
    check_storage_options(settings.storage_options)
    if not 1 <= settings.pairs_per_shard <= _MOST_PAIRS:
        raise UserError(
            f"pairs_per_shard={shown(settings.pairs_per_shard)}: expected 1 to {_MOST_PAIRS:,}"
        )
    if not 0 <= settings.max_bad_share <= 1:
        raise UserError(f"max_bad_share={settings.max_bad_share}: expected a share of 0 to 1")
    _check_held_out(settings.held_out)
    vocabulary = settings.vocabulary
    if vocabulary is not None and not _LEAST_VOCABULARY <= vocabulary <= _MOST_VOCABULARY:
        raise UserError(
            f"vocabulary={shown(vocabulary)}: expected {_LEAST_VOCABULARY} to "
            f"{_MOST_VOCABULARY:,} tokens, or null"
        )
    check_kind("vocabulary_kind", settings.vocabulary_kind)
    if vocabulary is None and settings.vocabulary_kind != DEFAULT_KIND:
        raise UserError(
            f"vocabulary_kind={settings.vocabulary_kind}: no vocabulary is made; give "
            f"vocabulary=30000, its tokens"
        )


def _check_held_out(setting: float) -> None:
    """Refuses what is neither a share nor a number of pairs."""
    if not (0 <= setting < 1 or (setting >= 1 and setting.is_integer())):
        raise UserError(
            f"held_out={setting:g}: expected a share of the pairs below 1, e.g. 0.05, or their "
            f"number, e.g. 1000; 0: none"
        )
