"""The settings of `python -m data.filter`. They need no package of the extra `prepare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from align_train.config.field_marks import FREE_KEYS, TEXTS, Paths


@dataclass
class NearDuplicates:
    """Settings of the rule on perceptual hashes; `conf/commands/filter.yaml` has the defaults.

    Attributes:
        of: Evaluation images: a folder, shards, or a parquet file of hashes. None: the rule is off.
        distance: The bits in which a near-duplicate may differ.
    """

    of: str | None
    distance: int


@dataclass
class Uids:
    """Settings of the rule on listed rows; `conf/commands/filter.yaml` has the defaults.

    Attributes:
        of: A file of uids or keys. None: the rule is off.
    """

    of: str | None


@dataclass
class Rules:
    """Each rule's number; None means that the rule is off.

    `conf/commands/filter.yaml` explains them and has the defaults. The fields stand in the
    order in which the rules are applied.
    """

    short_side: float | None
    aspect_ratio: float | None
    nsfw: float | None
    texts_per_image: int | None
    images_per_text: int | None
    unigrams: list[int] | None
    rare_tokens: int | None
    near_duplicates: NearDuplicates
    uids: Uids
    columns: dict[str, Any] = field(metadata=FREE_KEYS)


@dataclass
class ColumnNames:
    """The source's columns; None means the first of the usual names in `data/tables/find.py`."""

    image: str | None
    text: str | None
    width: str | None
    height: str | None
    nsfw: str | None
    phash: str | None
    uid: str | None


@dataclass
class FilterSettings:
    """`conf/commands/filter.yaml` explains each key and has the defaults."""

    source: Paths = field(metadata=TEXTS)
    to: str
    scores: Paths = field(metadata=TEXTS)
    caption: Any = field(metadata=TEXTS)  # a text, a list of texts, or None
    image: str | None
    keys: str | None
    storage_options: Any = field(metadata=FREE_KEYS)  # a mapping or None
    engine: str
    paper: bool
    rules: Rules
    columns: ColumnNames
    memory_gb: float
    threads: int | None
    temporary: str | None
    options: dict[str, Any]
    examples: int
