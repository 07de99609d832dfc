"""The pairs that `score` reads: what its loader processes make of them for the towers."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from align_train.cluster.position import SCORING
from align_train.cluster.watchdog import Watchdog
from align_train.commands.devices import loader_workers
from align_train.commands.shard_work import Place, chunks_of
from align_train.config.command_schema import ScoreSettings
from align_train.errors import UserError
from align_train.index.scores import Tally
from align_train.pretrained.load import TrainedModel
from align_train.shards.shard import ShardReader
from align_train.stream.decode import Pixels, Views, decode_centre
from align_train.stream.pairs import Pairs, content_id
from align_train.stream.tokenizer import Tokenizer

_NO_PIXELS = np.empty((0, 0, 0, 3), dtype=np.uint8)
_NO_IDS = np.empty((0, 0), dtype=np.int32)


class _Row(NamedTuple):
    """A pair; without pixels if it cannot be scored."""

    key: bytes
    pixels: Pixels | None
    texts: list[str]


class ReadyChunk(NamedTuple):
    """Pairs as the towers take them.

    Arrays and no tensors: torch would hand them over in /dev/shm, of which a container has little.

    Attributes:
        keys: Of all pairs; empty if it is lost with the rest of a broken tar.
        good: Which of them can be scored, `[pairs]`.
        pixels: Of those that can, uint8 `[good, height, width, 3]`.
        ids: Of all their texts, int32 `[texts, length]`.
        texts: How many texts each of them has, `[good]`.
        text_ids: int64 `[texts]`, equal for equal texts.
        tally: Counts the others, and texts that were cut.
    """

    keys: list[bytes]
    good: NDArray[np.bool_]
    pixels: Pixels
    ids: NDArray[np.int32]
    texts: NDArray[np.int64]
    text_ids: NDArray[np.int64]
    tally: Tally


def _read(reader: ShardReader, pair: int, *, views: Views, first: bool) -> _Row:
    """Reads a pair in a loader process. first: whether one text is enough."""
    texts: list[str] = []
    pixels = None
    try:
        # A pair without a text is not decoded.
        texts = reader.all_texts(pair)
        pixels = decode_centre(reader.image(pair), views)
    except UserError:
        # About the shard: no pair of it is bad.
        raise
    except ValueError:
        pass
    return _Row(reader.key_bytes(pair), pixels, texts[:1] if first else texts)


def _collate(rows: list[_Row], tokenizer: Tokenizer) -> ReadyChunk:
    """Makes a chunk in a loader process."""
    good = [row for row in rows if row.pixels is not None]
    pixels = [row.pixels for row in rows if row.pixels is not None]
    texts = list(chain.from_iterable(row.texts for row in good))

    ids = _NO_IDS
    cut = 0
    if texts:
        ids, cut = tokenizer.with_cut(texts)

    # What lies behind the tear of a tar has neither key nor text.
    lost = sum(not row.key and not row.texts for row in rows)
    no_text = sum(not row.texts for row in rows) - lost
    no_image = len(rows) - len(good) - no_text - lost
    return ReadyChunk(
        keys=[row.key for row in rows],
        good=np.array([row.pixels is not None for row in rows], dtype=bool),
        pixels=np.stack(pixels) if pixels else _NO_PIXELS,
        ids=ids,
        texts=np.array([len(row.texts) for row in good], dtype=np.int64),
        text_ids=np.array([content_id(text.encode()) for text in texts], dtype=np.int64),
        tally=Tally(no_image, no_text, lost, texts=len(texts), cut=cut),
    )


def without_inputs(chunk: ReadyChunk) -> ReadyChunk:
    """What is left of a chunk to be kept when the towers have seen it."""
    return chunk._replace(pixels=_NO_PIXELS, ids=_NO_IDS)


def ready_chunks(
    model: TrainedModel, pairs: Pairs, shards: list[int], given: ScoreSettings, watchdog: Watchdog
) -> Generator[tuple[Place, ReadyChunk], None, None]:
    """Reads the pairs of some shards as the towers take them; see `chunks_of`."""
    return chunks_of(
        pairs,
        shards,
        read=partial(_read, views=pairs.views, first=given.texts == "first"),
        collate=partial(_collate, tokenizer=model.trimming_tokenizer()),
        chunk_size=given.chunk_size,
        workers=loader_workers(given.workers, model.device),
        doing=SCORING,
        unit="pair",
        watchdog=watchdog,
    )
