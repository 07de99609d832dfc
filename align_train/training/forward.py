"""Chunks through the towers: random numbers, BatchNorm and memory that depend on the recipe alone, not on the cluster.

A chunk is what BatchNorm and dropout see, so a global batch gives the same numbers however its chunks are spread over
ranks. Three things make that so:

- *Random numbers.* Before each pass over a chunk the generators are seeded by (seed, step, the chunk's number in the
  global batch). There is nothing to save, and a resumed run draws the same.
- *BatchNorm.* Each chunk is normalised by its own statistics; the running statistics move once a step, by the plain mean
  over all chunks of the global batch (one all-reduce of 2 floats per channel), alike on every rank.
- *Gradient caching* is activation checkpointing at the size of a chunk: with it, only embeddings are kept between forward
  and backward, and each chunk's graph is made again when its gradient is due (one more forward pass). The recomputation
  draws the same random numbers and leaves BatchNorm's statistics alone. One graph, one backward: each parameter's gradient
  arrives once, so every engine synchronises once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from align_train.stream.batch import Chunk, normalise
from align_train.training.batch_norm import BatchNormStatistics
from align_train.training.recompute import forgetful


def _own_casts(device: str) -> Callable[[], AbstractContextManager[Any]]:
    """Autocast as it is now, with weights cast anew for each chunk: a cast that chunks share would add up their gradients in
    bf16. To be entered also where it is off by then, in backward."""
    lower, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return lambda: torch.autocast(device, dtype=lower, enabled=enabled, cache_enabled=False)


def seed_chunk(seed: int, step: int, number: int) -> None:
    """Seeds PyTorch's generators, on every device, for one chunk of one step."""
    digest = hashlib.blake2b(f"{seed}/{step}/{number}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)


def encode_chunks(
    model: nn.Module, chunks: Sequence[Chunk], *, seed: int, step: int, recompute: bool
) -> tuple[Tensor, Tensor]:
    """All chunks of the device batch through both towers: image and text embeddings, `[device batch, dim]` each.

    recompute: keep no activations (gradient caching); the gradients are the same. In training mode BatchNorm's running
    statistics move by one step.
    """
    statistics = BatchNormStatistics(model)
    dtype = next(model.parameters()).dtype
    casts = _own_casts(chunks[0].images.device.type)

    def forward(chunk: Chunk) -> tuple[Tensor, Tensor]:
        seed_chunk(seed, step, chunk.index)
        with casts():
            return model(normalise(chunk.images, dtype), chunk.input_ids)  # type: ignore[no-any-return]

    embeddings = []
    for chunk in chunks:
        if recompute:
            embeddings.append(
                forgetful(partial(forward, chunk), statistics.collect(), statistics.ignore())
            )
        else:
            with statistics.collect():
                embeddings.append(forward(chunk))
    if model.training:
        statistics.finish()
    images, texts = zip(*embeddings, strict=True)
    return torch.cat(images), torch.cat(texts)
