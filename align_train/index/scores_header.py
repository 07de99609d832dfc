"""The header of scores on disk: how a folder's scores were made, and what each column means."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from align_train.errors import UserError, one_line
from align_train.index.identity import Identity

KEY = "key"  # the array of a shard's file with the pairs' keys
TALLY = "tally"  # the one with some counts

NO_COLUMNS = (KEY, TALLY)
"""Arrays of a shard's file beside the columns, which cannot have these names."""

_MOST_PAIRS = 2**40  # of a shard: more fit no file


@dataclass(frozen=True)
class Column:
    """What the numbers of a column mean.

    Attributes:
        least: The least value that there can be.
        most: The largest.
        says: What a number says of its pair.
    """

    least: float
    most: float
    says: str


@dataclass(frozen=True)
class ScoresHeader:
    """What a folder's scores were made with: the content of `scores.json`.

    Attributes:
        model: The model's path or name.
        identity: What the scores depend on.
        source: The shards, as `data.shards` takes them.
        manifest: The manifest's hash.
        shards: The names of the shards, in the manifest's order.
        counts: Pairs of each shard.
        sizes: Bytes of each shard's tar.
        columns: The meaning of each column.
        caption: As `data.caption`.
        image: As `data.image`.
        keys: As `data.keys`.
        dim: The width of the embeddings that are stored too (`taught.py`); None: none are.
        temperature: The number that the model divides their cosines by; None with `dim`.
    """

    model: str
    identity: Identity
    source: str | list[str]
    manifest: str
    shards: list[str]
    counts: list[int]
    sizes: list[int]
    columns: dict[str, Column]
    caption: str | list[str]
    image: str | None
    keys: str | None
    dim: int | None = None
    temperature: float | None = None

    @classmethod
    def read(cls, file: Path) -> ScoresHeader:
        """Reads `scores.json`.

        Args:
            file: The file.

        Raises:
            UserError: It cannot be read, or was not written by `score`.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            columns = {name: Column(**column) for name, column in content["columns"].items()}
            identity = Identity.read(content["identity"])
            header = cls(**content | {"identity": identity, "columns": columns})
            header._check()
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise UserError(
                f"{file}: cannot be read ({one_line(error, 100)}); remove the folder and score "
                f"again"
            ) from None
        return header

    def _check(self) -> None:
        # JSON gives any types, and a dataclass does not check its own.
        columns = self.columns.values()
        texts = [self.model, self.manifest, *self.shards, *self.columns]
        texts += [column.says for column in columns]
        for setting in (self.source, self.caption):
            texts += setting if isinstance(setting, list) else [setting]
        right_types = (
            all(isinstance(text, str) for text in texts)
            and all(isinstance(count, int) and 0 <= count < _MOST_PAIRS for count in self.counts)
            and all(isinstance(size, int) and size >= 0 for size in self.sizes)
            and all(_is_range(column.least, column.most) for column in columns)
        )
        if not right_types or not self.caption:
            raise ValueError("other types than it is written with")
        # A column of that name would take the place of the keys or the tally.
        if reserved := set(NO_COLUMNS) & set(self.columns):
            raise ValueError(f"a column called {min(reserved)}")
        # Distillation divides the stored cosines by the temperature, so one needs the other.
        if self.dim is not None and not (
            isinstance(self.dim, int) and isinstance(self.temperature, float)
        ):
            raise ValueError("embeddings of no size, or without a temperature")
        lengths = {len(self.shards), len(self.counts), len(self.sizes)}
        if not self.columns or not self.counts or len(lengths) > 1:
            raise ValueError("no columns, or not as many counts or sizes as shards")


def _is_range(least: object, most: object) -> bool:
    if not isinstance(least, int | float) or not isinstance(most, int | float):
        return False
    return -math.inf < least < most < math.inf
