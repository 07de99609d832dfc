"""A choice among the pairs of a tar, as a manifest writes it: a selection, or rates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError
from align_train.files import whole
from align_train.shards.cache import ShardCache
from align_train.shards.rates import Rates, rates_name, rounded, visits_of
from align_train.shards.row import Row, Shard
from align_train.shards.selection import Selection, selection_name, short_hash

Choice = NDArray[np.bool_] | NDArray[np.floating[Any]]
"""Which pairs of a shard are kept, or how often each comes in an epoch, by sorted key."""

_LARGEST_COUNT = 2**48  # of pairs and bytes; a million shards of so many still fit 64 bits


def write_choices(
    path: Path,
    shards: Iterable[Shard],
    rows: Iterable[Row],
    choices: Iterable[Choice],
    cache: ShardCache | None,
) -> None:
    """Writes the choices of all shards into one file, whole or not at all; it holds one at a time.

    Args:
        path: The file beside the manifest.
        shards: The shards.
        rows: Their rows in the manifest, which get the fields that `parse_choice` reads.
        choices: Among the pairs that each shard gives, `[pairs]`.
        cache: Reads earlier selections, which are narrowed; None: there may be none.

    Raises:
        UserError: The file cannot be written, or a shard's earlier selection cannot be narrowed.
        ValueError: The choices do not fit the shards.
    """
    try:
        with whole(path) as aside, aside.open("wb") as file:
            for shard, row, choice in zip(shards, rows, choices, strict=True):
                part, fields = _packed(_narrowed(choice, shard, cache))
                # The byte at which the shard's part begins, so that a reader can seek to it.
                row.update(fields, at=file.tell())
                file.write(part)
    except UserError:
        raise  # about an earlier selection
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free some space or choose another place"
        ) from None


def parse_choice(row: Mapping[str, object], folder: str, name: str) -> Selection | None:
    """Parses the fields that `write_choices` gives a row.

    Args:
        row: A row of a manifest.
        folder: Where the manifest lies.
        name: Its file name.

    Returns:
        None: the row keeps all pairs of the tar.

    Raises:
        ValueError: A field is no count.
        KeyError: A field is missing.
    """
    if "kept" in row:
        file = f"{folder}/{selection_name(name)}"
        return Selection(file, parse_count(row["at"]), parse_count(row["of"]), str(row["kept"]))
    if "rates" in row:
        file = f"{folder}/{rates_name(name)}"
        at, of, used, visits = (parse_count(row[field]) for field in ("at", "of", "used", "pairs"))
        return Rates(file, at, of, str(row["rates"]), used, visits)
    return None


def parse_count(value: object) -> int:
    """A count in a row; ValueError if it is none, or so large that sums would overflow."""
    # JSON's true is an integer to Python.
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_COUNT:
        return value
    raise ValueError("no count")


def _narrowed(choice: Choice, shard: Shard, cache: ShardCache | None) -> Choice:
    """Makes a choice among all pairs of a tar, of one among those that are kept already."""
    earlier = shard.selection
    if isinstance(earlier, Rates):
        raise UserError(
            f"{shard.url}: has rates, which a choice of pairs would lose; choose from the manifest "
            f"that balance read, then balance the result"
        )
    if len(choice) != shard.pairs or (earlier and cache is None):
        raise ValueError(
            f"{shard.url}: {len(choice)} choices for {shard.pairs} pairs, or chosen from before"
        )
    if earlier is None or cache is None:
        return choice

    kept = earlier.read(cache)
    chosen: NDArray[Any] = np.zeros(len(kept), dtype=choice.dtype)
    # Pairs that were left out before stay so: 0 is False, and it is the rate of no visit.
    chosen[kept] = choice
    return chosen


def _packed(choice: Choice) -> tuple[bytes, Row]:
    """Packs a choice among all pairs of a tar: its bytes, and the fields of its row."""
    if choice.dtype == np.bool_:
        part = np.packbits(choice.astype(bool)).tobytes()
        return part, {"pairs": int(choice.sum()), "of": len(choice), "kept": short_hash(part)}

    rates = rounded(choice.astype(np.float64))
    part = rates.tobytes()
    used = int((rates > 0).sum())
    visits = visits_of(rates)
    return part, {"pairs": visits, "of": len(rates), "rates": short_hash(part), "used": used}
