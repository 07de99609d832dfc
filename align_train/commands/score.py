"""The cosine of image and text of every pair of some shards, once: `Scores` to choose pairs by.

Processes of torchrun or srun share the shards, and the same command goes on after a kill:
`shard_work.py`. A pair whose image cannot be decoded, or that has no text, has NaN for a score; it
is counted, and stops nothing. `prompts` adds columns: the cosine of each image and given texts.

Price: an image is read and decoded once, and each text goes through the text tower once. The
loader's processes decode and tokenize, and the device is waited for at a shard's end only. In
memory a process has the scores of one shard and a few chunks of images.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from align_train.cluster import launcher
from align_train.cluster.watchdog import Watchdog
from align_train.commands.devices import check_loader, device_of
from align_train.commands.open_images import open_images
from align_train.commands.score_chunks import ReadyChunk, ready_chunks, without_inputs
from align_train.commands.score_prompts import prompts_of
from align_train.commands.score_report import report
from align_train.commands.score_sheets import draw_ends, has_sheets
from align_train.commands.shard_work import (
    broken_weights,
    model_from_anywhere,
    own_shards,
    refuse_same_names,
    shards_from_anywhere,
    watched,
)
from align_train.commands.targets import check_collection_folder
from align_train.config.command_schema import ScoreSettings
from align_train.errors import UserError
from align_train.index.folder import begun_caption
from align_train.index.scores import SCORES, SIMILARITY, Scores, Tally, Values
from align_train.index.scores_header import Column, ScoresHeader
from align_train.index.taught import ShardEmbeddings
from align_train.pretrained.identity import identity_of
from align_train.pretrained.load import TrainedModel, load
from align_train.stream.batch import normalise
from align_train.stream.pairs import Pairs
from align_train.stream.shard_cache import shard_cache_of

_SAYS = {
    "best": "cosine of the image and the nearest of its texts",
    "mean": "mean of the cosines of the image and its texts",
    "first": "cosine of the image and its first text",
}

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
    caption = given.caption
    if caption is None:
        caption = begun_caption(folder / SCORES, ScoresHeader.read)
    pairs = open_images(
        given.shards,
        plain=False,
        caption=caption,
        image=given.image,
        keys=given.keys,
        views=model.views,
        cache=shard_cache_of(None, given.storage_options),
        progress=launcher.is_first_process(),
        need_texts=True,
    )
    refuse_same_names(pairs.manifest)

    scores = Scores.begin(folder, header_of(given, model, pairs))
    left = own_shards(pairs.manifest, scores.has)
    if left:
        check_collection_folder(given.to, writes=True)
    score_shards(model, scores, pairs, left, given, watchdog)
    complete = all(map(scores.has, range(len(pairs.manifest.shards))))
    # A former start may have been killed between its last shard and the sheets.
    if complete and (left or not has_sheets(scores)):
        draw_ends(scores, pairs, SIMILARITY)
    report(scores, wrote=bool(left))


def header_of(given: ScoreSettings, model: TrainedModel, pairs: Pairs) -> ScoresHeader:
    """What the folder records; UserError: the model does not take a prompt whole."""
    manifest = pairs.manifest
    return ScoresHeader(
        model=model_from_anywhere(given.model),
        identity=identity_of(model),
        source=shards_from_anywhere(given.shards),
        manifest=manifest.identity,
        shards=[shard.name for shard in manifest.shards],
        counts=manifest.counts.tolist(),
        sizes=[shard.bytes for shard in manifest.shards],
        columns=_columns(given, model),
        caption=pairs.caption.setting,
        image=given.image,
        keys=given.keys,
        dim=model.model.dim if given.embeddings else None,
        temperature=model.temperature if given.embeddings else None,
    )


def _columns(given: ScoreSettings, model: TrainedModel) -> dict[str, Column]:
    columns = {SIMILARITY: Column(-1, 1, _SAYS[given.texts])}
    tokenizer = model.trimming_tokenizer()
    for name, texts in prompts_of(given.prompts).items():
        # A prompt that is cut would ask every image for something else.
        _, cut = tokenizer.with_cut(texts)
        if cut:
            raise UserError(
                f"prompts.{name}: longer than the {tokenizer.max_tokens} tokens that the model "
                f"takes; shorten it"
            )
        spelled = [json.dumps(text, ensure_ascii=False) for text in texts]
        nearest = "the nearest of " if len(texts) > 1 else ""
        columns[name] = Column(-1, 1, f"cosine of the image and {nearest}{', '.join(spelled)}")
    return columns


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
    tokenizer = model.trimming_tokenizer()
    prompts = {
        name: _embedded(model, tokenizer(texts), given.chunk_size)
        for name, texts in prompts_of(given.prompts).items()
    }
    done: list[tuple[ReadyChunk, Cosines]] = []
    # Closed, or an error here would leave the loader's processes behind.
    with contextlib.closing(ready_chunks(model, pairs, shards, given, watchdog)) as chunks:
        for place, chunk in chunks:
            cosines = cosines_of(
                model, chunk, given.chunk_size, list(prompts.values()), keep=given.embeddings
            )
            # Without pixels: those of a whole shard may not fit into memory.
            done.append((without_inputs(chunk), cosines))

            if place.completes:
                values = _of_shard(done, given, list(prompts))
                keys = list(chain.from_iterable(chunk.keys for chunk, _ in done))
                tally = reduce(Tally.plus, (chunk.tally for chunk, _ in done))
                if given.embeddings:
                    # First: a shard with a file of scores is done.
                    embeddings_of(done, model.model.dim).write(scores, place.shard)
                scores.write(place.shard, keys, values, tally)
                done = []


class Cosines(NamedTuple):
    """Of a chunk, on the device.

    Attributes:
        texts: Of each text and its image, float32 `[texts]`.
        prompts: Of each image and the nearest text of each prompt, float32 `[good, prompts]`.
        embeddings: Of images `[good, dim]` and of texts `[texts, dim]`, float16; None unless they
            are kept.
    """

    texts: Tensor
    prompts: Tensor
    embeddings: tuple[Tensor, Tensor] | None = None


def cosines_of(
    model: TrainedModel,
    chunk: ReadyChunk,
    chunk_size: int,
    prompts: Sequence[Tensor] = (),
    *,
    keep: bool = False,
) -> Cosines:
    """Computes the cosines of a chunk.

    Nothing here waits for the device, so that the next chunk is prepared while it computes.

    Args:
        model: The model.
        chunk: Pairs.
        chunk_size: Texts that go through their tower together: a pair may have many.
        prompts: The embedded texts of each prompt, `[texts, dim]`.
        keep: Whether the embeddings are wanted, too.
    """
    # No pair of the chunk can be scored, so the towers have nothing to do.
    if not len(chunk.texts):
        device = model.device
        return Cosines(torch.empty(0, device=device), torch.empty(0, len(prompts), device=device))

    pixels = normalise(_moved(chunk.pixels, model.device), model.model)
    images = model.encode_image(pixels).float()
    texts = _embedded(model, chunk.ids, chunk_size)
    owners = np.repeat(np.arange(len(chunk.texts)), chunk.texts)
    own = (images[_moved(owners, model.device)] * texts).sum(dim=1)

    nearest = [(images @ of_prompt.T).amax(dim=1, keepdim=True) for of_prompt in prompts]
    # The first one: there may be no prompts.
    of_prompts = torch.cat([images.new_empty(len(images), 0), *nearest], dim=1)
    return Cosines(own, of_prompts, (images.half(), texts.half()) if keep else None)


def _embedded(model: TrainedModel, ids: NDArray[np.int32], chunk_size: int) -> Tensor:
    """Embeds texts. ids: of all of them; returns float32 `[texts, dim]`."""
    moved = _moved(ids, model.device)
    parts = [moved[start : start + chunk_size] for start in range(0, len(moved), chunk_size)]
    return torch.cat([model.encode_text(part) for part in parts]).float()


def _moved(array: NDArray[np.generic], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    # From page-locked memory a GPU fetches it by itself, between two passes.
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _of_shard(
    done: Sequence[tuple[ReadyChunk, Cosines]], given: ScoreSettings, prompts: Sequence[str]
) -> Values:
    """The columns of a shard.

    Args:
        done: Its chunks.
        given: The command's settings.
        prompts: The names of the prompts.

    Returns:
        `[pairs]` by column; NaN for pairs that cannot be scored.
    """
    cosines = torch.cat([cosines.texts for _, cosines in done]).cpu().numpy()
    of_prompts = torch.cat([cosines.prompts for _, cosines in done]).cpu().numpy()
    # Pairs that cannot be scored are not in here yet, so any NaN is of the weights.
    if not np.isfinite(cosines).all() or not np.isfinite(of_prompts).all():
        raise broken_weights(given.model)

    texts = np.concatenate([chunk.texts for chunk, _ in done])
    scored: Mapping[str, Floats] = {
        SIMILARITY: _of_pairs(cosines, texts, given.texts),
        **{name: of_prompts[:, index] for index, name in enumerate(prompts)},
    }
    good = np.concatenate([chunk.good for chunk, _ in done])
    columns = {}
    for name, values in scored.items():
        columns[name] = np.full(len(good), np.nan, dtype=np.float32)
        columns[name][good] = values
    return columns


def embeddings_of(done: Sequence[tuple[ReadyChunk, Cosines]], dim: int) -> ShardEmbeddings:
    """The embeddings of a shard's pairs.

    Args:
        done: Its chunks.
        dim: The width of an embedding.
    """
    good = np.concatenate([chunk.good for chunk, _ in done])
    images = np.full((len(good), dim), np.nan, dtype=np.float16)
    counts = np.zeros(len(good), dtype=np.int64)
    # One at least to be joined, as the shard may have no good pair.
    texts = [np.empty((0, dim), dtype=np.float16)]

    kept = [cosines.embeddings for _, cosines in done if cosines.embeddings is not None]
    if kept:
        images[good] = torch.cat([of_images for of_images, _ in kept]).cpu().numpy()
        counts[good] = np.concatenate([chunk.texts for chunk, _ in done])
        texts += [of_texts.cpu().numpy() for _, of_texts in kept]
    return ShardEmbeddings(
        images=images,
        texts=np.concatenate(texts),
        text_ids=np.concatenate([chunk.text_ids for chunk, _ in done]),
        first_texts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def _of_pairs(cosines: Floats, texts: NDArray[np.int64], choice: str) -> Floats:
    """From the cosines of texts, and how many texts each pair has, to scores `[pairs]`."""
    if not len(texts):
        return cosines
    # The index of each pair's first text; every pair has one.
    starts = np.cumsum(texts) - texts
    if choice == "mean":
        # float64, so that the mean of equal cosines is that very cosine.
        sums = np.add.reduceat(cosines.astype(np.float64), starts)
        return (sums / texts).astype(np.float32)
    # Of `first` a pair has one text.
    return np.maximum.reduceat(cosines, starts)
