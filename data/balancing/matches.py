"""The entries that the pairs of each shard hold, found once and kept in files of a folder.

Price (texts of 12 words): 17 microseconds a pair to match and 72 to make entries, beside the
reading; 80 MB of disk a million pairs until the command ends, and 30 MB or more, by how many
different phrases there are, while entries are made.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from align_train.errors import UserError
from align_train.shards.caption import is_unicode
from align_train.shards.left_out import LeftOut
from align_train.shards.shard import ShardReader

from ..tables.tars import Tars
from .entries import Matcher, phrases_of

WITHOUT_TEXT = "pairs without a text that can be read"


@dataclass(frozen=True, kw_only=True)
class Matches:
    """The pairs of one shard, in the order of their sorted keys.

    Attributes:
        entries: Indices of entries, those of one pair after those of another.
        counts: `[pairs]`, how many of these each pair has.
        has_text: `[pairs]`, false for a pair without a text that can be read.
        draws: `[pairs]`, a number from 0 to below 1 for each pair, by a hash of its key.
    """

    entries: NDArray[np.int32]
    counts: NDArray[np.int32]
    has_text: NDArray[np.bool_]
    draws: NDArray[np.float64]

    @property
    def pairs(self) -> NDArray[np.int64]:
        """The pair that each of `entries` belongs to."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


class Texts:
    """The texts of the pairs of shards."""

    def __init__(self, tars: Tars, *, lower: bool) -> None:
        """Reads nothing yet.

        Args:
            tars: The shards.
            lower: Whether texts are lower-cased.
        """
        self.tars = tars
        self.lower = lower

    def shards(self, about: str) -> Iterator[ShardReader]:
        """Yields each shard, open. about: what its texts are read for, beside the progress bar.

        Raises:
            UserError: A shard cannot be read, or is broken.
        """
        for shard in tqdm(self.tars.manifest.shards, desc=about, unit="shard"):
            with closing(self.tars.open(shard)) as reader:
                yield reader

    def of(self, reader: ShardReader) -> Iterator[list[str]]:
        """Yields the texts of each pair of a shard; none if they cannot be read.

        Raises:
            UserError: The shard changed since it was opened.
        """
        for pair in range(len(reader)):
            try:
                texts = reader.all_texts(pair)
            except UserError:
                raise  # about the shard, not about a pair
            except ValueError:
                texts = []
            yield [text.lower() for text in texts] if self.lower else texts


def made_entries(texts: Texts, folder: Path, *, least_count: int, memory_gb: float) -> list[str]:
    """Makes entries: the unigrams and bigrams that enough pairs hold, the most frequent first.

    Args:
        texts: The pairs' texts.
        folder: Is filled with counts, shard by shard.
        least_count: How many pairs must hold an entry.
        memory_gb: The memory that DuckDB may take.

    Raises:
        UserError: No phrase is held by so many pairs, or there is too little memory.
    """
    import pyarrow as pa
    from pyarrow import parquet

    from ..tables.engines import engine

    folder.mkdir(parents=True)
    for shard, reader in enumerate(texts.shards("counting phrases")):
        counts: Counter[str] = Counter()
        for of_pair in texts.of(reader):
            # A pair counts once for a phrase, however many of its texts hold it.
            counts.update(set().union(*map(phrases_of, of_pair)))
        # JSON may spell halves of characters, which no file of texts can hold.
        written = {phrase: count for phrase, count in counts.items() if is_unicode(phrase)}
        table = pa.table(
            {
                "phrase": pa.array(list(written), pa.string()),
                "count": pa.array(list(written.values()), pa.int64()),
            }
        )
        parquet.write_table(table, folder / f"{shard:06d}.parquet", compression="zstd")

    with engine("duckdb", memory_gb=memory_gb, threads=None, temporary=folder / "spill") as ready:
        # DuckDB adds up the shards' counts: a dict of all phrases would grow with the source.
        rows = ready.load(folder)
        summed = rows.group_by("phrase").agg(count=rows["count"].sum())
        frequent = summed.filter(summed["count"] >= least_count).to_pyarrow().to_pydict()

    # Not the engine's order: equal counts follow by the phrase, on any machine.
    ranked = sorted(zip(frequent["phrase"], frequent["count"], strict=True), key=_by_count)
    if not ranked:
        raise UserError(
            f"least_count={least_count}: no word is held by so many pairs; lower it, or give a "
            f"file with entries=…"
        )
    return [phrase for phrase, _ in ranked]


def find_matches(texts: Texts, entries: list[str], folder: Path, *, seed: int) -> LeftOut:
    """Finds the entries of all pairs, and writes them into a new folder for `read_matches`.

    Args:
        texts: The pairs' texts.
        entries: The entries.
        folder: The folder.
        seed: Decides the pairs' draws.

    Returns:
        The pairs whose texts cannot be read.
    """
    matcher = Matcher(entries)
    folder.mkdir(parents=True)
    left_out = LeftOut()

    for shard, reader in enumerate(texts.shards("matching entries")):
        found: list[list[int]] = []
        has_text: list[bool] = []
        draws: list[float] = []
        for pair, of_pair in enumerate(texts.of(reader)):
            # Sorted: a set has no order, and the files are to be the same each time.
            found.append(sorted(matcher(of_pair)))
            has_text.append(bool(of_pair))
            draws.append(_draw(reader.key(pair), seed))
            if not of_pair:
                left_out.add(WITHOUT_TEXT, reader.key(pair))

        # Manifests list choices by sorted keys, while the reader gives pairs as the tar has them.
        by_key = reader.by_key().tolist()
        entries_of = [np.array(found[pair], dtype=np.int32) for pair in by_key]
        np.savez(
            _file(folder, shard),
            # Concatenating nothing is an error: a shard may hold no entry at all.
            entries=np.concatenate([np.zeros(0, dtype=np.int32), *entries_of]),
            counts=np.array([len(of_pair) for of_pair in entries_of], dtype=np.int32),
            has_text=np.array(has_text, dtype=bool)[by_key],
            draws=np.array(draws, dtype=np.float64)[by_key],
        )
    return left_out


def read_matches(folder: Path, shard: int) -> Matches:
    """Reads the matches of a shard, by its index in the manifest."""
    with np.load(_file(folder, shard), allow_pickle=False) as file:
        return Matches(**{name: file[name] for name in file.files})


def _file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:06d}.npz"


def _draw(key: str, seed: int) -> float:
    """A number from 0 to below 1 for a pair, whatever the order of the shards is."""
    digest = hashlib.blake2b(f"{seed}/{key}".encode("utf-8", "replace"), digest_size=8).digest()
    # 53 bits: float64 could round 64 bits up to 1, and a rate of 1 must always keep.
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def _by_count(ranked: tuple[str, int]) -> tuple[int, str]:
    return -ranked[1], ranked[0]
