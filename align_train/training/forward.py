"""Chunks through the towers: random numbers, BatchNorm and memory depend on the recipe alone.

A chunk is what BatchNorm and dropout see, so a global batch gives the same numbers however its
chunks are spread over ranks. Three things make that so:

- *Random numbers.* Before each pass over a chunk the generators are seeded by (seed, step, the
  chunk's index in the global batch). There is nothing to save, and a resumed run draws the same.
- *BatchNorm.* Each chunk is normalised by its own statistics; the running statistics move once a
  step, by the mean over all chunks of the global batch (`batch_norm.py`).
- *Gradient caching* is activation checkpointing at the size of a chunk. Only embeddings are kept
  between forward and backward, and each chunk's graph is made again when its gradient is due. The
  recomputation draws the same random numbers and leaves BatchNorm's statistics alone. There is one
  graph and one backward pass: each parameter's gradient arrives once, so every strategy
  synchronises once.

Price of gradient caching: one more forward pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor, nn

from align_train.stream.batch import Chunk, normalise
from align_train.training.batch_norm import BatchNormStatistics
from align_train.training.recompute import recompute_in_backward

Embeddings = tuple[Tensor, Tensor]  # of images and of texts


def embed_chunks(
    model: nn.Module,
    chunks: Sequence[Chunk],
    *,
    seed: int,
    finished_steps: int,
    recompute: bool,
) -> Embeddings:
    """Sends all chunks of the device batch through both towers.

    In training mode BatchNorm's running statistics move by one step.

    Args:
        model: Gives the embeddings of images and of texts.
        chunks: The device batch.
        seed: The run's seed.
        finished_steps: Steps before this one.
        recompute: True keeps no activations (gradient caching); the gradients are the same.

    Returns:
        Embeddings of images and of texts, `[device batch, dim]` each.
    """
    statistics = BatchNormStatistics(model)
    dtype = next(model.parameters()).dtype
    autocast = _autocast_by_chunk(chunks[0].images.device.type)

    def forward(chunk: Chunk) -> Embeddings:
        # In here, so that a recomputation draws the same numbers.
        seed_chunk(seed, finished_steps, chunk.index)
        with autocast():
            embeddings: Embeddings = model(normalise(chunk.images, dtype), chunk.input_ids)
        return embeddings

    embeddings: list[Embeddings] = []
    for chunk in chunks:
        if recompute:
            forward_chunk = partial(forward, chunk)
            embeddings.append(
                recompute_in_backward(
                    forward_chunk, first=statistics.collect(), again=statistics.ignore()
                )
            )
        else:
            with statistics.collect():
                embeddings.append(forward(chunk))

    if model.training:
        statistics.finish()
    images, texts = zip(*embeddings, strict=True)
    return torch.cat(images), torch.cat(texts)


def seed_chunk(seed: int, finished_steps: int, index: int) -> None:
    """Seeds PyTorch's generators, on every device, for one chunk of one step.

    Args:
        seed: The run's seed.
        finished_steps: Steps before this one.
        index: The chunk's index in the global batch.
    """
    digest = hashlib.blake2b(f"{seed}/{finished_steps}/{index}".encode(), digest_size=8).digest()
    # PyTorch takes 63 bits.
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)


def _autocast_by_chunk(device: str) -> Callable[[], AbstractContextManager[object]]:
    """Autocast as it is now, with weights cast anew for each chunk.

    A cast that chunks share would add up their gradients in bf16. The recomputation enters it too:
    in the backward pass autocast is off by then.
    """
    dtype = torch.get_autocast_dtype(device)
    enabled = torch.is_autocast_enabled(device)
    return partial(torch.autocast, device, dtype=dtype, enabled=enabled, cache_enabled=False)
