"""A collection of generated embeddings with planted copies, whose cosines are known.

Rows lie about topics, of 500 rows each, as embeddings of real images do. A tenth of the rows are
copies of earlier ones, each of one of `COSINES` with its original. There are no shards: the
manifest names tars that do not exist.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from align_train.index.collection import Collection
from align_train.index.identity import Identity
from align_train.index.settings import Settings
from align_train.shards.cache import ShardCache
from align_train.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from align_train.shards.row import Shard

DIM = 160
COSINES = (1.0, 0.99, 0.98, 0.97, 0.96, 0.94, 0.9)

_PAIRS_A_SHARD = 100_000
_ROWS_A_TOPIC = 500
_COPIES = 0.1  # their share
_SEED = 3

Floats = NDArray[np.float32]

Truth = NDArray[np.int64]
"""The copy, its original and the index of their cosine, `[copies, 3]`."""


def make_collection(folder: Path, rows: int, topic: float) -> Truth:
    """Writes a collection into `folder / "index"`, and a manifest beside it.

    Args:
        folder: A new folder.
        rows: How many rows.
        topic: The cosine of each row and its topic; 0: directions at random.
    """
    counts = [min(_PAIRS_A_SHARD, rows - first) for first in range(0, rows, _PAIRS_A_SHARD)]
    folder.mkdir(parents=True)
    path = folder / MANIFEST_NAME
    shards = [
        Shard(str(folder / f"{shard:05d}.tar"), count, 1) for shard, count in enumerate(counts)
    ]
    Manifest(tuple(shards), str(folder)).write(path)
    identity = read_manifest(str(path), cache=ShardCache()).identity

    model = Identity("w", None, 1, 1, None, {}, [[1.0]])
    settings = Settings("m", model, str(path), "txt", identity, counts, DIM, "float16")
    collection = Collection.begin(folder / "index", settings)
    random = np.random.default_rng(_SEED)
    topics = units(random, max(1, rows // _ROWS_A_TOPIC))

    truth = []
    for shard, count in enumerate(counts):
        first = shard * _PAIRS_A_SHARD
        embeddings, copies = _shard(collection, topic, topics, first, count, random)
        truth.append(copies)
        about = [{"key": f"{shard:05d}/{pair:09d}", "texts": []} for pair in range(count)]
        collection.write(shard, embeddings, about)
    return np.concatenate(truth)


def _shard(
    collection: Collection,
    topic: float,
    topics: Floats,
    first: int,
    count: int,
    random: np.random.Generator,
) -> tuple[Floats, Truth]:
    """The rows of a shard, whose last ones are copies of rows of earlier shards, or of its own."""
    rows = beside(topics[random.integers(0, len(topics), count)], np.float32(topic), random)

    fresh = count - int(count * _COPIES)
    copies = np.arange(fresh, count)
    # Half of them from this shard, half from one before it, if there is one.
    originals = random.integers(0, fresh, len(copies))
    source = rows[originals]
    shard = first // _PAIRS_A_SHARD
    if shard:
        earlier = int(random.integers(0, shard))
        half = len(copies) // 2
        source[:half] = np.load(collection.path / f"{earlier:05d}.npy")[originals[:half]]
        originals[:half] += (earlier - shard) * _PAIRS_A_SHARD

    which = random.integers(0, len(COSINES), len(copies))
    rows[fresh:] = beside(source, np.array(COSINES, dtype=np.float32)[which, None], random)
    return rows, np.stack([first + copies, first + originals, which], axis=1)


def units(random: np.random.Generator, count: int) -> Floats:
    """Directions at random, `[count, DIM]`."""
    rows = random.standard_normal((count, DIM), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def beside(rows: Floats, cosine: Floats | np.float32, random: np.random.Generator) -> Floats:
    """Unit vectors of a given cosine with each row."""
    others = units(random, len(rows))
    others -= (others * rows).sum(axis=1, keepdims=True) * rows
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    found = cosine * rows + np.sqrt(1 - cosine * cosine) * others
    return found.astype(np.float32, copy=False)
