"""The cosine of image and text of every pair of some shards, once: `Scores` to choose pairs by.

Processes of torchrun or srun share the shards, and the same command goes on after a kill:
`shard_work.py`. A pair whose image cannot be decoded, or that has no text, has NaN for a score; it
is counted, and stops nothing.

Price: an image is read and decoded once, and each text goes through the text tower once. The
loader's processes decode and tokenize, and the device is waited for at a shard's end only. In
memory a process has the scores of one shard and a few chunks of images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from functools import partial, reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from align_train.cluster import launcher
from align_train.cluster.run_store import SCORING
from align_train.cluster.watchdog import Watchdog
from align_train.commands.devices import check_loader, device_of, loader_workers
from align_train.commands.open_images import open_images
from align_train.commands.score_report import report
from align_train.commands.score_sheets import draw_ends
from align_train.commands.shard_work import (
    Place,
    chunks_of,
    model_from_anywhere,
    own_shards,
    shards_from_anywhere,
    watched,
)
from align_train.commands.targets import check_collection_folder
from align_train.config.command_schema import ScoreSettings
from align_train.errors import UserError
from align_train.index.scores import SCORES, Column, Scores, ScoresHeader, Tally
from align_train.pretrained.identity import identity_of
from align_train.pretrained.load import TrainedModel, load
from align_train.shards.shard import ShardReader
from align_train.stream.batch import normalise
from align_train.stream.decode import Pixels, Views, decode_centre
from align_train.stream.pairs import Pairs
from align_train.stream.shard_cache import shard_cache_of
from align_train.stream.tokenizer import Tokenizer

SIMILARITY = "similarity"
"""The column with the cosine of image and text."""

_SAYS = {
    "best": "cosine of the image and the nearest of its texts",
    "mean": "mean of the cosines of the image and its texts",
    "first": "cosine of the image and its first text",
}

_NO_PIXELS = np.empty((0, 0, 0, 3), dtype=np.uint8)
_NO_IDS = np.empty((0, 0), dtype=np.int32)

Floats = NDArray[np.float32]


def score(given: ScoreSettings) -> None:
    """Scores the pairs of shards: `python -m align_train.score`.

    Args:
        given: The command's settings, after `early.py` has looked at them.

    Raises:
        UserError: A setting, the model or a shard is not as expected, or the folder is another's.
    """
    check_loader(given)
    folder = check_collection_folder(given.to)

    with watched() as watchdog:
        _score_own(given, folder, watchdog)


def _score_own(given: ScoreSettings, folder: Path, watchdog: Watchdog) -> None:
    """Scores the shards that are this process's and not done yet."""
    model = load(given.model, device=device_of(given.device))
    # A model without a tokenizer scores nothing: told before the shards are counted.
    model.trimming_tokenizer()
    pairs = open_images(
        given.shards,
        plain=False,
        caption=given.caption or _begun_with(folder),
        image=given.image,
        keys=given.keys,
        views=model.views,
        cache=shard_cache_of(None, given.storage_options),
        progress=launcher.is_first_process(),
    )

    scores = Scores.begin(folder, header_of(given, model, pairs))
    left = own_shards(pairs.manifest, scores.has)
    if left:
        check_collection_folder(given.to, writes=True)
    score_shards(model, scores, pairs, left, given, watchdog)
    if left and all(scores.has(shard) for shard in range(len(pairs.manifest.shards))):
        draw_ends(scores, pairs, SIMILARITY)
    report(scores, wrote=bool(left))


def _begun_with(folder: Path) -> str | list[str] | None:
    """The captions that a former start has found out, and that the scores keep."""
    file = folder / SCORES
    return ScoresHeader.read(file).caption if file.exists() else None


def header_of(given: ScoreSettings, model: TrainedModel, pairs: Pairs) -> ScoresHeader:
    """What the folder records."""
    manifest = pairs.manifest
    return ScoresHeader(
        model=model_from_anywhere(given.model),
        identity=identity_of(model),
        source=shards_from_anywhere(given.shards),
        manifest=manifest.identity,
        shards=[shard.name for shard in manifest.shards],
        counts=manifest.counts.tolist(),
        sizes=[shard.bytes for shard in manifest.shards],
        columns={SIMILARITY: Column(-1, 1, _SAYS[given.texts])},
        caption=pairs.caption.setting,
        image=given.image,
        keys=given.keys,
    )


class _Row(NamedTuple):
    """A pair; without pixels if it cannot be scored."""

    key: bytes
    pixels: Pixels | None
    texts: list[str]


class ReadyChunk(NamedTuple):
    """Pairs as the towers take them.

    Arrays and no tensors: torch would hand them over in /dev/shm, of which a container has little.

    Attributes:
        keys: Of all pairs.
        good: Which of them can be scored, `[pairs]`.
        pixels: Of those that can, uint8 `[good, height, width, 3]`.
        ids: Of all their texts, int32 `[texts, length]`.
        texts: How many texts each of them has, `[good]`.
        tally: Counts the others, and texts that were cut.
    """

    keys: list[bytes]
    good: NDArray[np.bool_]
    pixels: Pixels
    ids: NDArray[np.int32]
    texts: NDArray[np.int64]
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
    texts = [text for row in good for text in row.texts]

    ids = _NO_IDS
    cut = 0
    if texts:
        ids, cut = tokenizer.with_cut(texts)

    no_text = sum(not row.texts for row in rows)
    tally = Tally(len(rows) - len(good) - no_text, no_text, len(texts), cut)
    return ReadyChunk(
        keys=[row.key for row in rows],
        good=np.array([row.pixels is not None for row in rows], dtype=bool),
        pixels=np.stack(pixels) if pixels else _NO_PIXELS,
        ids=ids,
        texts=np.array([len(row.texts) for row in good], dtype=np.int64),
        tally=tally,
    )


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


@torch.inference_mode()
def score_shards(
    model: TrainedModel,
    scores: Scores,
    pairs: Pairs,
    shards: list[int],
    given: ScoreSettings,
    watchdog: Watchdog,
) -> None:
    """Scores shards, and writes each as soon as it is complete.

    Args:
        model: The model.
        scores: The folder.
        pairs: The pairs of all shards.
        shards: The indices of the shards.
        given: The command's settings.
        watchdog: Learns of each chunk.

    Raises:
        UserError: A shard cannot be read, a file cannot be written, or the weights are broken.
    """
    of_pair = _OF_SEVERAL[given.texts]
    done: list[tuple[ReadyChunk, Tensor]] = []
    # Closed, or an error here would leave the loader's processes behind.
    with contextlib.closing(ready_chunks(model, pairs, shards, given, watchdog)) as chunks:
        for place, chunk in chunks:
            cosines = cosines_of(model, chunk, given.chunk_size)
            # Nobody needs the pixels any more.
            done.append((chunk._replace(pixels=_NO_PIXELS, ids=_NO_IDS), cosines))

            if place.completes:
                values = _of_shard(done, of_pair, given.model)
                keys = [key for chunk, _ in done for key in chunk.keys]
                tally = reduce(Tally.plus, (chunk.tally for chunk, _ in done))
                scores.write(place.shard, keys, {SIMILARITY: values}, tally)
                done = []


def cosines_of(model: TrainedModel, chunk: ReadyChunk, chunk_size: int) -> Tensor:
    """Computes the cosine of each text and its image.

    Nothing here waits for the device, so that the next chunk is prepared while it computes.

    Args:
        model: The model.
        chunk: Pairs.
        chunk_size: Texts that go through their tower together: a pair may have many.

    Returns:
        float32 `[texts]`, on the device.
    """
    if not len(chunk.texts):
        return torch.empty(0, device=model.device)

    images = model.encode_image(normalise(_moved(chunk.pixels, model.device), model.model))
    ids = _moved(chunk.ids, model.device)
    parts = [ids[start : start + chunk_size] for start in range(0, len(ids), chunk_size)]
    texts = torch.cat([model.encode_text(part) for part in parts])

    owners = np.repeat(np.arange(len(chunk.texts)), chunk.texts)
    return (images.float()[_moved(owners, model.device)] * texts.float()).sum(dim=1)


def _moved(array: NDArray[Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    # From page-locked memory a GPU fetches it by itself, between two passes.
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _of_shard(
    done: list[tuple[ReadyChunk, Tensor]],
    of_pair: Callable[[Floats, NDArray[np.int64]], Floats],
    path: str,
) -> Floats:
    """The scores of a shard's pairs.

    Args:
        done: Its chunks, each with the cosines of its texts.
        of_pair: From the cosines of texts, and how many texts each pair has, to scores of pairs.
        path: The model's, for the error.

    Returns:
        `[pairs]`; NaN for pairs that cannot be scored.
    """
    cosines = torch.cat([cosines for _, cosines in done]).cpu().numpy()
    if not np.isfinite(cosines).all():
        raise UserError(f"{path}: its embeddings are not finite: the weights are broken")

    good = np.concatenate([chunk.good for chunk, _ in done])
    texts = np.concatenate([chunk.texts for chunk, _ in done])
    values = np.full(len(good), np.nan, dtype=np.float32)
    if len(texts):
        values[good] = of_pair(cosines, texts)
    return values


def _best(cosines: Floats, texts: NDArray[np.int64]) -> Floats:
    return np.maximum.reduceat(cosines, _starts(texts))


def _mean(cosines: Floats, texts: NDArray[np.int64]) -> Floats:
    sums = np.add.reduceat(cosines.astype(np.float64), _starts(texts))
    return (sums / texts).astype(np.float32)


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The index of each pair's first text; every pair has one."""
    return np.cumsum(counts) - counts


_OF_SEVERAL = {"best": _best, "mean": _mean, "first": _best}
