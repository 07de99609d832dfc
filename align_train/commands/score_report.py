"""What `score` says at its end: what could not be scored, and how the scores are spread.

Price: one pass over the scores. Quartiles come from counts in 20,000 intervals, so that any number
of pairs takes the same memory.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from align_train.cluster import launcher
from align_train.errors import UserError, printable, shown
from align_train.index.scores import Scores, Tally
from align_train.index.scores_header import Column
from align_train.shards.left_out import counted

_INTERVALS = 20_000  # of the range of a column

_SAID = 300  # characters of what a column says

_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)


class Spread:
    """How the numbers of a column are spread."""

    def __init__(self, column: Column) -> None:
        """Begins with no number. column: the bounds of the numbers."""
        self.column = column
        self.counts = np.zeros(_INTERVALS, dtype=np.int64)
        self.least = np.inf
        self.most = -np.inf
        self.missing = 0

    def add(self, values: NDArray[np.float32]) -> None:
        """Counts numbers; NaN counts as missing."""
        known = values[~np.isnan(values)]
        self.missing += len(values) - len(known)
        if len(known):
            self.least = min(self.least, float(known.min()))
            self.most = max(self.most, float(known.max()))

        # Rounding may put a cosine a little beyond 1.
        width = self.column.most - self.column.least
        intervals = ((known - self.column.least) * (_INTERVALS / width)).astype(np.int64)
        # `counts[intervals] += 1` would count an interval once a call.
        np.add.at(self.counts, intervals.clip(0, _INTERVALS - 1), 1)

    @property
    def known(self) -> int:
        """How many numbers there are."""
        return int(self.counts.sum())

    def at(self, share: float) -> float:
        """The number below which a share of all numbers lie, to one interval."""
        ends = np.cumsum(self.counts)
        interval = int(np.searchsorted(ends, share * ends[-1]))
        width = self.column.most - self.column.least
        middle = self.column.least + (interval + 0.5) * width / _INTERVALS
        # The middle of the first or last interval may lie beyond all numbers.
        return float(np.clip(middle, self.least, self.most))


def report(scores: Scores, *, wrote: bool) -> None:
    """Prints what came out, on the first process and on one that may have completed the folder.

    Args:
        scores: The folder, which may lack shards that other processes are at.
        wrote: Whether this process has scored any shard.
    """
    first = launcher.is_first_process()
    total = len(scores.header.shards)
    done = sum(scores.has(shard) for shard in range(total))
    if done < total and first:
        print(f"{scores.path}: {done} of {total} shards done; others are at work", flush=True)
    if done == total and (first or wrote):
        print("\n".join(_lines(scores)), flush=True)


def _lines(scores: Scores) -> Iterator[str]:
    header = scores.header
    spreads = {name: Spread(column) for name, column in header.columns.items()}
    tally = Tally()
    first_bad = ""
    for shard, name in enumerate(header.shards):
        keys, columns = scores.read(shard)
        tally = tally.plus(scores.tally(shard))
        for column, values in columns.items():
            spreads[column].add(values)
            bad = np.flatnonzero(np.isnan(values))
            if len(bad) and not first_bad:
                key = keys[bad[0]].decode("utf-8", "replace")
                first_bad = f"{name.removesuffix('.tar')}/{key}" if key else name

    if len(scores) and not any(spread.known for spread in spreads.values()):
        raise UserError(
            f"{scores.path}: no pair has a score: {_reasons(tally)} (first {shown(first_bad)}), by "
            f"caption={shown(header.caption)}, image={shown(header.image or 'null')}; give others, "
            f"and another to=…"
        )
    yield f"{scores.path}: {len(scores):,} pairs in {len(header.shards)} shards"
    yield from _table(spreads)
    if first_bad:
        yield f"NaN: {_reasons(tally)} (first {shown(first_bad)})"
    if tally.cut:
        share = tally.cut / tally.texts
        yield (
            f"{tally.cut:,} of {tally.texts:,} texts ({share:.1%}) were longer than the model "
            f"takes, and were cut"
        )

    source = header.source if isinstance(header.source, str) else f"[{','.join(header.source)}]"
    members = [(key, getattr(header, key)) for key in ("image", "keys")]
    # People copy this line, so it repeats what the scores were made with.
    words = (
        "align-train",
        "filter",
        f"source={source}",
        *(f"{key}={value}" for key, value in members if value is not None),
        f"scores={scores.path}",
        "paper=false",
        f"rules.columns.{next(iter(header.columns))}.top=0.3",
        "to=best",
    )
    yield f"next: {printable(shlex.join(words))}"


def _reasons(tally: Tally) -> str:
    """Says why pairs have no score."""
    reasons = (
        (tally.no_image, "image", "that cannot be decoded"),
        (tally.no_text, "pair", "without a text or with an earlier key"),
        (tally.lost, "pair", "of broken tars"),
    )
    return ", ".join(f"{counted(count, noun)} {why}" for count, noun, why in reasons if count)


def _table(spreads: Mapping[str, Spread]) -> Iterator[str]:
    width = max(map(len, ["score", *spreads]))
    shares = "".join(f"{share:>9.0%}" for share in _SHARES)
    yield f"{'score':{width}}{'pairs':>14}{'NaN':>10}{'least':>9}{shares}{'most':>9}"
    for name, spread in spreads.items():
        counts = f"{name:{width}}{spread.known:>14,}{spread.missing:>10,}"
        if not spread.known:
            yield counts
            continue
        numbers = [spread.least, *map(spread.at, _SHARES), spread.most]
        yield counts + "".join(f"{number:>9.4f}" for number in numbers)

    for name, spread in spreads.items():
        column = spread.column
        yield f"{name}: {shown(column.says, _SAID)}, from {column.least:g} to {column.most:g}"
