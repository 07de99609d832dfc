"""The cosines of chunks of pairs, and the scores and embeddings of a shard that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from align_train.commands.score_chunks import ReadyChunk
from align_train.commands.shard_work import broken_weights
from align_train.config.command_schema import ScoreSettings
from align_train.index.scores import SIMILARITY, Values
from align_train.index.taught import ShardEmbeddings
from align_train.pretrained.load import TrainedModel
from align_train.stream.batch import normalise

Floats = NDArray[np.float32]


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
    texts = embedded_texts(model, chunk.ids, chunk_size)
    owners = np.repeat(np.arange(len(chunk.texts)), chunk.texts)
    own = (images[_moved(owners, model.device)] * texts).sum(dim=1)

    nearest = [(images @ of_prompt.T).amax(dim=1, keepdim=True) for of_prompt in prompts]
    # The first one: there may be no prompts.
    of_prompts = torch.cat([images.new_empty(len(images), 0), *nearest], dim=1)
    return Cosines(own, of_prompts, (images.half(), texts.half()) if keep else None)


def embedded_texts(model: TrainedModel, ids: NDArray[np.int32], chunk_size: int) -> Tensor:
    """Embeds texts.

    Args:
        model: The model.
        ids: The token ids of all texts.
        chunk_size: Texts that go through the tower together.

    Returns:
        float32 `[texts, dim]`, on the device.
    """
    moved = _moved(ids, model.device)
    parts = [moved[start : start + chunk_size] for start in range(0, len(moved), chunk_size)]
    return torch.cat([model.encode_text(part) for part in parts]).float()


def _moved(array: NDArray[np.generic], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    # From page-locked memory a GPU fetches it by itself, between two passes.
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def values_of(
    done: Sequence[tuple[ReadyChunk, Cosines]], given: ScoreSettings, prompts: Sequence[str]
) -> Values:
    """Makes the columns of a shard.

    Args:
        done: Its chunks.
        given: The command's settings.
        prompts: The names of the prompts.

    Returns:
        `[pairs]` by column; NaN for pairs that cannot be scored.

    Raises:
        UserError: A cosine is not finite, so the weights are broken.
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
    """Joins the embeddings of a shard's pairs.

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
