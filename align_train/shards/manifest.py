"""The manifest: the list of shards with their counts, a small file with one JSON object a line.

A row is `{"shard", "pairs", "bytes"}`. Shards are named by URL, or by a path relative to the
manifest, so that a data set can be moved as a folder. A row may also carry a selection
(`selection.py`): `"of"` (pairs in the tar), `"at"` (a byte in `NAME.selection` beside the manifest)
and `"kept"` (a hash of the bits). `pairs` then counts the kept ones. Or it carries rates
(`rates.py`): `"of"`, `"at"` (a byte in `NAME.rates`), `"rates"` (a hash) and `"used"` (pairs with a
rate above 0). `pairs` then counts visits: how often an epoch visits the shard.

`"image"` and `"keys"` are the settings `data.image` and `data.keys` by which a shard's pairs were
counted, if they were set: whoever reads the shard must set them too.

The identity of the data is a hash of names, counts and selections, not of paths: a run resumes on
another machine. `resolve.py` opens any value of `data.shards`.

Price (`benchmarks/memory`): 75,000 rows with selections open in a third of a second and 40 MB.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError, shown
from align_train.files import write_whole
from align_train.shards.cache import ShardCache
from align_train.shards.caption import parse_json
from align_train.shards.choices import parse_choice, parse_count, write_choices
from align_train.shards.rates import Rates, rates_name
from align_train.shards.recorded import recorded, refuse_disagreeing
from align_train.shards.remote import is_url
from align_train.shards.row import Row, Shard
from align_train.shards.selection import refuse_missing, selection_name

MANIFEST_NAME = "manifest.jsonl"

HOW_TO_PREPARE = "make shards with `align-train pack`, or see docs/data.md"


@dataclass(frozen=True)
class Manifest:
    """The shards of one data set, in a fixed order. The order of training is a function of it.

    Attributes:
        shards: The shards.
        source: Where they come from, for errors.
        sources: How many of the shards belong to each of the data sets that are mixed; None: all
            belong to one.
    """

    shards: tuple[Shard, ...]
    source: str
    sources: tuple[int, ...] | None = None

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Pairs of each shard, `[shards]`."""
        return np.array([shard.pairs for shard in self.shards], dtype=np.int64)

    @property
    def pairs(self) -> int:
        """Pairs of all shards."""
        return int(self.counts.sum())

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.shards)

    @cached_property
    def identity(self) -> str:
        """A hash of the shards' names, counts and selections: the same wherever they lie."""
        rows = []
        for shard in self.shards:
            row = f"{shard.name}\t{shard.pairs}"
            if shard.selection:
                row += f"\t{shard.selection.hash}"
            rows.append(row)

        # Names as the disk has them: they need not be UTF-8.
        text = "\n".join(rows)
        # The same shards in another mix are other data: their order is another one.
        for count in self.sources or ():
            text += f"\n\n{count}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    @property
    def has_rates(self) -> bool:
        """Whether any shard has rates; those of `once` keep them, but count no visits."""
        return any(isinstance(shard.selection, Rates) for shard in self.shards)

    def refuse_rates(self, key: str) -> None:
        """Refuses a manifest from which pairs cannot be chosen any more. key: its setting."""
        if self.has_rates:
            raise UserError(
                f"{key}={self.source}: has rates already; give the manifest that they were made "
                f"from"
            )

    def once(self) -> Manifest:
        """The manifest that gives each pair once: those with a rate above 0, of a shard with rates.

        Whoever embeds, scores or evaluates pairs wants this one; only training goes by rates.
        """
        if not self.has_rates:
            return self
        return replace(self, shards=tuple(shard.once() for shard in self.shards))

    def write(
        self,
        path: Path,
        *,
        kept: Iterable[NDArray[np.bool_]] | None = None,
        rates: Iterable[NDArray[np.floating]] | None = None,
        cache: ShardCache | None = None,
    ) -> None:
        """Writes the manifest, and the bits of its selections, or its rates, beside it.

        Args:
            path: The manifest's file.
            kept: For each shard which of its pairs are kept, in the order of their sorted keys,
                `[pairs]`; None: all pairs of all shards. Of a shard with a selection these are
                the pairs that the selection keeps, which is narrowed.
            rates: In place of `kept`: how often an epoch visits each of these pairs.
            cache: Reads the selections that are narrowed; None: no shard may have one.

        Raises:
            UserError: The files cannot be written, an earlier selection cannot be read, or a shard
                has rates already.
            ValueError: The choices do not fit the shards, or a shard has a selection already.
        """
        if kept is not None and rates is not None:
            raise ValueError("a manifest has a selection or rates, not both")

        rows: list[Row] = []
        for shard in self.shards:
            url = shard.url if is_url(shard.url) else os.path.relpath(shard.url, path.parent)
            row: Row = {"shard": url, "pairs": shard.pairs, "bytes": shard.bytes}
            row |= {"image": shard.image} if shard.image else {}
            row |= {"keys": shard.keys} if shard.keys else {}
            rows.append(row)
            # The bits of an earlier selection lie beside another manifest.
            if shard.selection and kept is None and rates is None:
                raise ValueError(f"{shard.url}: a selection is written where it is made")

        # The bits first: a manifest that exists has its selection.
        choices = kept if rates is None else rates
        if choices is not None:
            name_of = selection_name if rates is None else rates_name
            file = path.with_name(name_of(path.name))
            write_choices(file, self.shards, rows, choices, cache)
        fix = "free some space or choose another place"
        write_whole(path, "".join(f"{json.dumps(row)}\n" for row in rows), fix=fix)


def place_in(ends: NDArray[np.int64], pair: int) -> tuple[int, int]:
    """Finds a pair that is counted over all shards.

    Args:
        ends: The running sum of the shards' counts, `[shards]`.
        pair: The pair's index among all.

    Returns:
        The index of its shard, and its own index in that shard.
    """
    # `right` passes over shards without pairs: they end where the one before them ends.
    shard = int(np.searchsorted(ends, pair, side="right"))
    begin = int(ends[shard - 1]) if shard else 0
    return shard, pair - begin


def read_manifest(url: str, *, cache: ShardCache) -> Manifest:
    """Reads a manifest.

    Args:
        url: Its path or URL.
        cache: Fetches it if it is remote.

    Returns:
        The manifest.

    Raises:
        Vanished: The source says that the file does not exist.
        UserError: It cannot be read, is no manifest (the error names the line), or lists no pairs;
            or its selections or rates are not beside it.
    """
    folder, _, name = url.rpartition("/")
    folder = folder or "."

    try:
        lines = cache.read(url).decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(
            f"{url}: no manifest (not even text); expected {MANIFEST_NAME}, a folder or tars"
        ) from None

    shards = []
    for number, line in enumerate(lines, start=1):
        try:
            shards.append(_parse_row(line, folder, name))
        except UserError as error:
            raise UserError(f"{url}, line {number}: {error}") from None
        except (ValueError, KeyError):
            raise UserError(
                f"{url}, line {number}: expected {{shard, pairs, bytes}} with counts of 0 or more, "
                f"found {shown(line)}"
            ) from None

    refuse_disagreeing((shard.members for shard in shards), url)
    # Now, and not when an epoch comes to the first such shard.
    refuse_missing(shard.selection for shard in shards if shard.selection)
    return checked(Manifest(tuple(shards), url))


def _parse_row(line: str, folder: str, name: str) -> Shard:
    """Parses one line of the manifest of that name in that folder.

    Raises:
        ValueError: It is no row.
        UserError: A recorded setting has a wrong value.
        KeyError: A field is missing.
    """
    row = parse_json(line.encode())
    if not isinstance(row, dict):
        raise ValueError("no object")

    # Relative to the manifest, which itself may lie at a URL.
    url = row["shard"]
    if not isinstance(url, str) or not _is_name(url):
        raise ValueError("no path or URL")
    if not is_url(url):
        if is_url(folder):
            url = f"{folder}/{url}"
        elif not url.startswith("/"):
            # Not `resolve`, which follows links: the name is a part of the identity.
            url = os.path.normpath(f"{folder}/{url}")

    members = recorded(row)
    pairs = parse_count(row["pairs"])
    size = parse_count(row["bytes"])
    selection = parse_choice(row, folder, name)
    return Shard(url, pairs, size, selection, members.image, members.keys)


def _is_name(url: str) -> bool:
    """Whether the disk can have a file of that name. JSON may spell what no name may hold."""
    try:
        return bool(url) and "\0" not in url and bool(os.fsencode(url))
    except UnicodeEncodeError:
        return False


def checked(manifest: Manifest) -> Manifest:
    """Returns the manifest; UserError if it lists no pairs."""
    if manifest.pairs == 0:
        raise UserError(f"{manifest.source}: the manifest lists no pairs; {HOW_TO_PREPARE}")
    return manifest
