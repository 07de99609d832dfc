"""Passes that show whether memory suffices, and leave nothing behind.

They are real passes of random pixels and longest texts through the laid-out model, forward and
backward. No gradient is kept, no statistic moves, no generator is asked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from align_train.model import TrainableModel
from align_train.strategy.layout import trained_parameters
from align_train.stream.batch import Batch
from align_train.training.forward import Towers
from align_train.training.out_of_memory import free_memory, is_out_of_memory


def passes_fit(passes: Callable[[], None]) -> bool:
    """Makes passes; returns whether they have found enough memory on this rank.

    Args:
        passes: Makes them.
    """
    fit = True
    try:
        passes()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        fit = False

    # Only now: `except` would keep the frames of the failed pass, and their tensors.
    free_memory()
    return fit


def trial_passes(
    towers: Towers, pairs: int, size: int, max_tokens: int, *, recompute: bool, reserve: int = 0
) -> None:
    """Makes passes of random pairs, forward and backward, of which nothing stays.

    Args:
        towers: The towers, laid out by their strategy, with whole weights.
        pairs: How many go through the towers.
        size: Pairs of a chunk.
        max_tokens: Tokens of each text.
        recompute: Whether chunks are computed again in the backward pass.
        reserve: Bytes that must stay free.
    """
    batch = trial_batch(pairs, max_tokens, towers.model)
    device = next(towers.model.parameters()).device
    held = torch.empty(reserve, dtype=torch.uint8, device=device)
    try:
        embeddings = towers.embed(batch, chunk_size=size, recompute=recompute)
        trained = [parameter for _, parameter in trained_parameters(towers.model)]
        # Not `backward`: strategies would send the gradients to other ranks.
        torch.autograd.grad(
            [part.sum() for part in embeddings if part.requires_grad], trained, allow_unused=True
        )
    finally:
        towers.end_step()
        towers.statistics.begin_step()
        del held


def trial_batch(pairs: int, max_tokens: int, model: TrainableModel) -> Batch:
    """Makes a batch of random pixels, and texts as long as any.

    Args:
        pairs: How many.
        max_tokens: Tokens of each text.
        model: Its images have the model's size; a classifier gets labels in place of texts.
    """
    shape = (pairs, model.image_size, model.image_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    tokens = 1 if model.takes_labels else max_tokens
    return Batch.unnamed(
        images=torch.from_numpy(pixels),
        input_ids=torch.full((pairs, tokens), 0 if model.takes_labels else 1, dtype=torch.int32),
    )
