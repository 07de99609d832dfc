"""Embeddings of known cosines, and shards with a collection and scores of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align_train.index.collection import Collection
from align_train.index.identity import Identity
from align_train.index.scores import Scores
from align_train.index.scores_header import Column, ScoresHeader
from align_train.index.settings import Settings
from align_train.shards.cache import ShardCache
from align_train.shards.manifest import Manifest, read_manifest
from align_train.stream.decode import Views
from align_train.stream.pairs import Pairs
from data.repeats.rows import Rows
from data.repeats.settings import RepeatsSettings
from tests.support.shards import TXT

DIM = 24

_IDENTITY = Identity("w", "t", 32, 36, 16, {}, [[1.0, 0.0]])

Floats = NDArray[np.float32]


def units(count: int, seed: int = 0) -> Floats:
    """Directions at random."""
    rows = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def beside(rows: Floats, cosine: float, seed: int) -> Floats:
    """Unit vectors of a given cosine with each row. rows: `[rows, dim]` or `[dim]`."""
    others = units(rows.size // DIM, seed).reshape(rows.shape)
    others -= (others * rows).sum(axis=-1, keepdims=True) * rows
    others /= np.linalg.norm(others, axis=-1, keepdims=True)
    found: Floats = np.float32(cosine) * rows + np.float32(np.sqrt(1 - cosine**2)) * others
    return found


def ranked(embeddings: Floats, path: Path, scored: int | None = None) -> Rows:
    """Rows whose rank is their place. path: a file for them."""
    file = np.memmap(path, dtype=np.float32, mode="w+", shape=embeddings.shape)
    file[:] = embeddings
    count = len(embeddings)
    hashes = np.random.default_rng(1).integers(0, 2**63, count).astype(np.uint64)
    return Rows(file, np.arange(count), hashes, count if scored is None else scored)


@dataclass
class Made:
    """A folder with `shards`, a collection `index` of them, and `scores`; all known by key."""

    folder: Path
    embeddings: dict[str, Floats]
    scores: dict[str, float]

    def settings(self, **changes: Any) -> RepeatsSettings:
        plain = RepeatsSettings(
            source=str(self.folder / "index"),
            to=str(self.folder / "to"),
            threshold=0.95,
            scores=str(self.folder / "scores"),
            score="similarity",
            cells=None,
            probes=2,
            storage_options=None,
        )
        return replace(plain, **changes)

    def gone(self, before: list[str] | None = None, to: str = "to") -> set[str]:
        """The keys that a selection has no more. before: those that there were; None: all."""
        manifest = read_manifest(str(self.folder / to / "manifest.jsonl"), cache=ShardCache())
        return set(before or self.embeddings) - set(keys_of(manifest))


def pairs_of(manifest: Manifest) -> Pairs:
    views = Views(image_size=16, resize_size=16)
    return Pairs(manifest=manifest, caption=TXT, views=views, cache=ShardCache())


def keys_of(manifest: Manifest) -> list[str]:
    """The keys of all pairs, in the order of the tars."""
    pairs = pairs_of(manifest)
    keys = []
    for shard in range(len(manifest.shards)):
        reader = pairs.reader(shard)
        keys += [reader.key(pair) for pair in range(len(reader))]
    return keys


def embed(
    manifest: Manifest,
    shards: str | list[str],
    embeddings: Mapping[str, Floats],
    to: Path,
    precision: str = "float16",
) -> None:
    """As `align_train.embed` writes it, with embeddings that are given."""
    counts = manifest.counts.tolist()
    settings = Settings("m", _IDENTITY, shards, "txt", manifest.identity, counts, DIM, precision)
    collection = Collection.begin(to, settings)
    pairs = pairs_of(manifest)
    for shard in range(len(counts)):
        reader = pairs.reader(shard)
        keys = [reader.key(pair) for pair in range(len(reader))]
        rows = np.stack([embeddings[key] for key in keys])
        collection.write(shard, rows, [{"key": key, "texts": []} for key in keys])


def score(manifest: Manifest, shards: str, scores: Mapping[str, float], to: Path) -> None:
    """As `align_train.score` writes it, with scores that are given."""
    header = ScoresHeader(
        model="m",
        identity=_IDENTITY,
        source=shards,
        manifest=manifest.identity,
        shards=[shard.name for shard in manifest.shards],
        counts=manifest.counts.tolist(),
        sizes=[shard.bytes for shard in manifest.shards],
        columns={"similarity": Column(-1, 1, "cosine")},
        caption="txt",
        image=None,
        keys=None,
    )
    written = Scores.begin(to, header)
    pairs = pairs_of(manifest)
    for shard in range(len(manifest.shards)):
        reader = pairs.reader(shard)
        own = range(len(reader))
        values = np.array([scores[reader.key(pair)] for pair in own], dtype=np.float32)
        written.write(shard, [reader.key_bytes(pair) for pair in own], {"similarity": values})
