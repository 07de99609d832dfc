"""A choice among the pairs of a tar, as a manifest writes it: a selection, or rates."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError
from align_train.files import whole
from align_train.shards.cache import ShardCache
from align_train.shards.rates import Rates, rounded, visits_of
from align_train.shards.selection import Selection, short_hash

Choice = NDArray[np.bool_] | NDArray[np.floating[Any]]
"""Which pairs of a shard are kept, or how often each comes in an epoch, by sorted key."""


def narrowed(
    choice: Choice, earlier: Selection | None, cache: ShardCache | None, *, url: str, pairs: int
) -> Choice:
    """Makes a choice among all pairs of a tar, of one among those that are kept already.

    Args:
        choice: Among the pairs that are kept, `[pairs]`.
        earlier: The selection that keeps them; None: all pairs of the tar are kept.
        cache: Reads the earlier selection; None: there may be none.
        url: The shard, for errors.
        pairs: How many pairs it gives now.

    Raises:
        UserError: The earlier selection has rates, or cannot be read.
        ValueError: There are other pairs.
    """
    if isinstance(earlier, Rates):
        raise UserError(
            f"{url}: has rates, which a choice of pairs would lose; choose from the manifest that "
            f"was balanced, then balance"
        )
    if len(choice) != pairs or (earlier and cache is None):
        raise ValueError(f"{url}: {len(choice)} choices for {pairs} pairs, or chosen from before")
    if earlier is None or cache is None:
        return choice

    kept = earlier.read(cache)
    chosen: NDArray[Any] = np.zeros(len(kept), dtype=choice.dtype)
    chosen[kept] = choice
    return chosen


def packed(choice: Choice) -> tuple[bytes, dict[str, str | int]]:
    """Packs a choice.

    Args:
        choice: Among all pairs of a tar.

    Returns:
        Its bytes, and the fields that a manifest's row has of it.
    """
    if choice.dtype == np.bool_:
        part = np.packbits(choice.astype(bool)).tobytes()
        return part, {"pairs": int(choice.sum()), "of": len(choice), "kept": short_hash(part)}

    rates = rounded(choice.astype(np.float64))
    part = rates.tobytes()
    used = int((rates > 0).sum())
    visits = visits_of(rates)
    return part, {"pairs": visits, "of": len(rates), "rates": short_hash(part), "used": used}


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Writes the parts of all shards into one file, whole or not at all; it holds one at a time.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        with whole(path) as aside, aside.open("wb") as file:
            for part in parts:
                file.write(part)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free some space or choose another place"
        ) from None
