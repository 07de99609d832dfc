"""The story of balancing: entries, matches, counts, rates, a manifest and a report."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from align_train.cluster.interruption import leave
from align_train.errors import UserError, shown
from align_train.shards.caption import CaptionSource
from align_train.shards.found_caption import found_caption
from align_train.shards.left_out import LeftOut, counted
from align_train.shards.manifest import MANIFEST_NAME, Manifest
from align_train.shards.members import Members
from align_train.shards.rates import rounded, scale_of
from align_train.shards.resolve import resolve
from align_train.shards.row import Shard
from align_train.stream.shard_cache import shard_cache_of

from ..packing.beside import whole_folder
from ..packing.next_command import command_for_chosen
from ..tables.tars import Tars
from . import report
from .entries import write_entries
from .matches import Matches, Texts, find_matches, made_entries, read_matches
from .rates import rates_of
from .settings import BalanceSettings

_ENTRIES = "entries.txt"


def balance(
    settings: BalanceSettings, shards: list[str], entries: list[str] | None, to: Path
) -> str:
    """Writes a balanced manifest and its report into a new folder.

    Args:
        settings: Of the command, checked.
        shards: The values of `source`.
        entries: Those of `entries=…`; None: they are made from the texts.
        to: The folder.

    Returns:
        The report's table, and the next command.

    Raises:
        UserError: The source cannot be read or has rates already, or no pair is left.
    """
    tars = _open(settings, shards)
    texts = Texts(tars, lower=settings.lower)

    with whole_folder(to) as aside:
        work = aside / "work"
        if entries is None:
            entries = made_entries(
                texts,
                work / "phrases",
                least_count=settings.least_count,
                memory_gb=settings.memory_gb,
            )
            # Before matching, which needs the disk as well.
            shutil.rmtree(work / "phrases")
        without_text = find_matches(texts, entries, work / "matches", seed=settings.seed)

        # The manifest takes its numbers from generators, which count for the report on the way.
        balanced = _Balanced(settings, tars.manifest, entries, work / "matches")
        manifest = aside / MANIFEST_NAME
        if settings.write == "rates":
            tars.manifest.write(manifest, rates=balanced.rates(), cache=tars.cache)
        else:
            tars.manifest.write(manifest, kept=balanced.kept(), cache=tars.cache)
        write_entries(entries, aside / _ENTRIES)
        # May still refuse the result. Then `whole_folder` leaves no folder.
        table = balanced.report(without_text, aside)
        shutil.rmtree(work)
    leave(f"{to} is complete")

    # After the folder is in its place: the line is true only then.
    without_text.say(to, "rate 0:")
    files = f"{to}: {MANIFEST_NAME}, {_ENTRIES}, report.md, report.json, report.png"
    command = command_for_chosen(
        to / MANIFEST_NAME, caption=settings.caption, image=settings.image, keys=settings.keys
    )
    return f"{table}\n{files}\nnext: {command}"


def _open(settings: BalanceSettings, shards: list[str]) -> Tars:
    cache = shard_cache_of(None, settings.storage_options)
    members = Members.parse(settings.image, settings.keys, prefix="")
    caption = settings.caption
    if caption is None:
        caption = found_caption(shards, members=members, cache=cache, key="source")
    source = CaptionSource.parse(caption, key="caption")
    manifest = resolve(shards, caption=source, members=members, cache=cache, key="source")
    manifest.refuse_rates("source")
    print(f"{shown(', '.join(shards))}: texts are {source}", flush=True)
    return Tars(manifest=manifest, caption=source, members=members, cache=cache)


class _Balanced:
    """The rates of all pairs, and the entries before and after."""

    def __init__(
        self, settings: BalanceSettings, manifest: Manifest, entries: list[str], folder: Path
    ) -> None:
        """Counts the pairs that hold each entry. folder: as `find_matches` has filled it."""
        self.settings = settings
        self.manifest = manifest
        self.entries = entries
        self.folder = folder
        self.before = np.zeros(len(entries), dtype=np.int64)
        self.expected = np.zeros(len(entries))
        self.after = np.zeros(len(entries))
        self.pairs = 0
        self.unmatched = 0
        self.rate_0 = 0
        self.rate_1 = 0
        self.expected_pairs = 0.0
        self.given = 0.0
        self.scales: list[tuple[float, str]] = []

        for shard in range(len(manifest.shards)):
            matches = read_matches(folder, shard)
            # All shards before the first rate: a rate depends on the counts of all pairs.
            self.before += np.bincount(matches.entries, minlength=len(entries))
            self.pairs += len(matches.counts)
            self.unmatched += int((matches.has_text & (matches.counts == 0)).sum())

    def rates(self) -> Iterator[NDArray[np.float64]]:
        """Yields the rates of each shard's pairs; counts on the way what an epoch visits."""
        for row, matches, rates in self._each():
            # As the manifest will have them, and an epoch will visit them.
            stored = rounded(rates)
            scale = scale_of(stored)
            self.scales.append((scale, row.name))
            self._count(matches, rates, stored.astype(np.float64) * scale)
            yield rates

    def kept(self) -> Iterator[NDArray[np.bool_]]:
        """Yields which pairs of each shard are drawn; counts them on the way."""
        for _, matches, rates in self._each():
            # Draws are below 1, so a rate of 1 always keeps.
            kept = matches.draws < rates
            self._count(matches, rates, kept.astype(np.float64))
            yield kept

    def _each(self) -> Iterator[tuple[Shard, Matches, NDArray[np.float64]]]:
        """Yields each shard with its matches and the rates of its pairs."""
        for shard, row in enumerate(self.manifest.shards):
            # Read a second time from the disk: those of all shards need not fit memory.
            matches = read_matches(self.folder, shard)
            rates = rates_of(
                matches,
                self.before,
                threshold=self.settings.threshold,
                most=self.settings.most,
                unmatched=self.settings.unmatched,
            )
            yield row, matches, rates

    def _count(
        self, matches: Matches, rates: NDArray[np.float64], given: NDArray[np.float64]
    ) -> None:
        length = len(self.entries)
        for total, weights in ((self.expected, rates), (self.after, given)):
            total += np.bincount(matches.entries, weights[matches.pairs], minlength=length)
        self.rate_0 += int((rates == 0).sum())
        self.rate_1 += int(((rates >= 1) & (matches.counts > 0)).sum())
        self.expected_pairs += float(rates.sum())
        self.given += float(given.sum())

    def report(self, without_text: LeftOut, folder: Path) -> str:
        """Writes the report's files, and returns its table; UserError if no pair is left."""
        settings = self.settings
        if not self.given:
            raise UserError(
                f"{folder}: would have none of {counted(self.pairs, 'pair')}: {self.unmatched:,} "
                f"hold none of {len(self.entries):,} entries, {without_text.total():,} have no "
                f"text; give other entries=…, lower=true, unmatched=… or a higher threshold"
            )
        figures: report.Figures = {
            "pairs": self.pairs,
            "without_text": without_text.total(),
            "unmatched": self.unmatched,
            "rate_0": self.rate_0,
            "rate_1": self.rate_1,
            "threshold": settings.threshold,
            "most": settings.most,
            "unmatched_rate": settings.unmatched,
            "seed": settings.seed,
            "write": settings.write,
            "expected": self.expected_pairs,
            "given": round(self.given),
            "largest_scale": None,
        }
        if self.scales:
            figures["largest_scale"] = max(self.scales, key=_distance_from_1)
        counts = report.Counts(self.entries, self.before, self.expected, self.after)
        return report.write(figures, counts, folder)


def _distance_from_1(scaled: tuple[float, str]) -> float:
    # By the logarithm a scale of a half is as far from 1 as one of 2.
    return abs(float(np.log(scaled[0])))
