"""A step's towers as commit 86e0342 computed them, for comparison: one chunk for each norm group.

There BatchNorm saw a chunk. Each pass over 16 pairs made fresh buffers for every BatchNorm layer,
seeded PyTorch's generators, and cast every weight anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.modules.batchnorm import _BatchNorm

from align_train.model import DualEncoder
from align_train.model.base import masked
from align_train.stream.batch import normalise
from align_train.training.recompute import recompute_in_backward
from benchmarks.shared.dispatch import Operators

GROUP = 16  # pairs that share BatchNorm's statistics, and with that a chunk

# Waits that this benchmark counted at commit 86e0342, in the parts that are not kept here: a loss,
# and a whole step of two chunks without and with a row of metrics.csv.
WAITS_OF_A_STEP = {"loss": 1, "plain": 7, "logged": 12}

Embeddings = tuple[Tensor, Tensor]  # of images and of texts


class _Statistics:
    """BatchNorm's statistics of one step: collected chunk by chunk, then finished."""

    def __init__(self, model: DualEncoder) -> None:
        self.norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self.running: list[Any] = []
        for norm in self.norms:
            self.running += [norm.running_mean, norm.running_var]
        self.momenta = [norm.momentum for norm in self.norms]
        self.steps = [norm.num_batches_tracked for norm in self.norms]
        self.sums = [torch.zeros_like(buffer) for buffer in self.running]
        self.chunks = 0

    @contextmanager
    def fresh_buffers(self, *, keep: bool) -> Iterator[None]:
        fresh = [torch.zeros_like(buffer) for buffer in self.running]
        self._put(fresh, [None] * len(self.norms), [1.0] * len(self.norms))
        try:
            yield
        finally:
            self._put(self.running, self.steps, self.momenta)
        if keep:
            torch._foreach_add_(self.sums, fresh)
            self.chunks += 1

    def around(self, forward: Callable[[], Embeddings], passes: Iterator[int]) -> Embeddings:
        """Calls a chunk's pass; only the first one counts."""
        with self.fresh_buffers(keep=next(passes) == 0):
            return forward()

    @torch.no_grad()
    def finish(self) -> None:
        mean = torch.cat([total.flatten() for total in self.sums]) / self.chunks
        # One process: nothing is reduced, but divided.
        mean.div_(1)
        before = torch.cat([buffer.flatten() for buffer in self.running])
        mean = torch.where(mean.isfinite().all(), mean, before)

        parts = torch.split(mean, [total.numel() for total in self.sums])
        for index, (buffer, part) in enumerate(zip(self.running, parts, strict=True)):
            buffer.lerp_(part.view_as(buffer), self.momenta[index // 2])
        for steps in self.steps:
            if steps is not None:
                steps.add_(1)

    def _put(self, buffers: list[Any], steps: list[Any], momenta: list[Any]) -> None:
        for index, norm in enumerate(self.norms):
            norm._buffers["running_mean"] = buffers[2 * index]
            norm._buffers["running_var"] = buffers[2 * index + 1]
            norm._buffers["num_batches_tracked"] = steps[index]
            norm.momentum = momenta[index]


def embed(
    model: DualEncoder,
    images: Tensor,
    input_ids: Tensor,
    *,
    recompute: bool,
    operators: Operators,
) -> Embeddings:
    """Sends a device batch through the towers, in chunks of `GROUP` pairs.

    Args:
        model: The plain model, in training mode.
        images: uint8 `[pairs, height, width, 3]`.
        input_ids: int32 `[pairs, length]`.
        recompute: Gradient caching.
        operators: Counts work that is done once a step as a part of its own.
    """
    with operators.part("once"):
        statistics = _Statistics(model)

    dtype = next(model.parameters()).dtype
    embedded: list[Embeddings] = []
    for index, chunk in enumerate(
        zip(torch.split(images, GROUP), torch.split(input_ids, GROUP), strict=True)
    ):
        forward = partial(_embed_chunk, model, *chunk, seed=index, dtype=dtype)
        passed = partial(statistics.around, forward, itertools.count())
        embedded.append(recompute_in_backward(passed) if recompute else passed())

    with operators.part("once"):
        statistics.finish()
    of_images, of_texts = zip(*embedded, strict=True)
    return torch.cat(of_images), torch.cat(of_texts)


def _embed_chunk(
    model: DualEncoder, images: Tensor, input_ids: Tensor, *, seed: int, dtype: torch.dtype
) -> Embeddings:
    torch.manual_seed(seed)
    # A cast that chunks share would add up their gradients in bf16.
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        of_images = model.encode_image(normalise(images, model, dtype))

        # Not `encode_text`, whose mask and attention have changed since.
        tower: Any = model.text_tower
        tower.network.set_attn_implementation("sdpa")
        tokens, mask = masked(input_ids, None)
        states = tower.network(input_ids=tokens, attention_mask=mask).last_hidden_state
        of_texts = tower.projection(states[:, 0]).float()
        return of_images, normalize(of_texts, dim=-1)
