"""Chunks through the towers: which numbers come out depends on the recipe alone.

A chunk is the pairs that go through the towers together. Larger chunks are faster and take more
memory. Nothing else may depend on them, so a global batch gives the same numbers in chunks of any
size, on any rank:

- *BatchNorm* sees norm groups, of which a chunk has any whole number (`batch_norm.py`).
- *Random numbers* follow from seed, step, layer and the pair's place in the global batch
  (`randomness.py`). There is nothing to save, and a second pass draws the same.
- *Gradient caching* is activation checkpointing at the size of a chunk. Only embeddings are kept
  between forward and backward, and each chunk's graph is made again when its gradient is due. There
  is one graph and one backward pass: each parameter's gradient arrives once, so every strategy
  synchronises once.

Price of gradient caching: one more forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from align_train.errors import UserError
from align_train.model import TrainableModel
from align_train.stream.batch import Batch, Chunk, normalise
from align_train.training.batch_norm import group_batch_norms
from align_train.training.casts import SharedCasts
from align_train.training.hashing import words_of
from align_train.training.randomness import Pass, RandomLayers, refuse_other_draws
from align_train.training.recompute import recompute_in_backward
from align_train.training.running_statistics import RunningStatistics

Embeddings = tuple[Tensor, Tensor]  # of images and of texts


class Towers:
    """A model's towers, as a training step sends chunks through them.

    Attributes:
        model: The model; its BatchNorm and dropout layers are replaced.
        seed: The run's seed.
        norm_group: Pairs of a norm group; None: no layer is trained that normalises by group.
        statistics: BatchNorm's running statistics, which the step moves when it is known to count.
    """

    def __init__(self, model: TrainableModel, *, seed: int, norm_group: int | None) -> None:
        """Replaces layers of the model; the names of its parameters and buffers stay.

        Args:
            model: Gives the embeddings of images and of texts.
            seed: The run's seed.
            norm_group: Pairs of a norm group; None: the model has no BatchNorm that is trained.

        Raises:
            UserError: The model has trained BatchNorm layers and `norm_group` is None, or a kind of
                BatchNorm that does not know norm groups.
        """
        self.model = model
        self.seed = seed
        self._norms = group_batch_norms(model)
        # A locked tower's layers stay in evaluation mode, and use their running statistics.
        trained = any(norm.training for norm in self._norms)
        if trained and norm_group is None:
            raise UserError(
                "norm_group=null: the model has BatchNorm layers, which need to know how many "
                "pairs share their statistics; set norm_group, e.g. norm_group=64"
            )
        self.norm_group = norm_group if trained else None
        for layer in model.modules():
            if isinstance(layer, nn.SiLU):
                # Its gradient needs its input; in place, PyTorch would first copy it.
                layer.inplace = False
        self.statistics = RunningStatistics(self._norms)
        self._random = RandomLayers(model)
        self._casts = SharedCasts(model, model.blocks)
        self._checked = False

    def embed(
        self,
        batch: Batch,
        *,
        chunk_size: int,
        recompute: bool,
        share_casts: bool = True,
    ) -> Embeddings:
        """Sends a device batch through both towers, chunk by chunk.

        Args:
            batch: The device batch, on the host.
            chunk_size: Pairs of a chunk: whole norm groups.
            recompute: True keeps no activations (gradient caching); the gradients are the same.
            share_casts: Under autocast: whether all chunks share one cast of the weights, which
                must stay in their places until the backward pass is over. False: each casts anew.

        Returns:
            Embeddings of images and of texts, `[device batch, dim]` each.

        Raises:
            UserError: A layer draws random numbers that depend on the chunk.
            ValueError: A chunk does not consist of whole norm groups.
        """
        if self.norm_group and (chunk_size % self.norm_group or len(batch) % chunk_size):
            raise ValueError(
                f"{len(batch)} pairs in chunks of {chunk_size} are no whole norm groups of "
                f"{self.norm_group}"
            )
        device = next(self.model.parameters()).device
        computed = None
        if torch.is_autocast_enabled(device.type):
            computed = torch.get_autocast_dtype(device.type)
        self._casts.begin_step(computed if share_casts else None)
        self.statistics.begin_step()
        # All at once: they are few bytes, and a copy for each chunk would hold the host up.
        batch = replace(batch, input_ids=batch.input_ids.to(device, non_blocking=True))

        embeddings: list[Embeddings] = []
        for chunk in batch.chunks(chunk_size):
            forward = partial(self._forward, chunk, batch.finished_steps, device, computed)
            with self._only_draws_by_pair(device):
                if recompute:
                    embeddings.append(recompute_in_backward(forward))
                else:
                    embeddings.append(forward())
            self.statistics.collect()

        images, texts = zip(*embeddings, strict=True)
        return torch.cat(images), torch.cat(texts)

    def end_step(self) -> None:
        """Frees the shared casts."""
        self._casts.end_step()

    def bytes_of_casts(self, dtype: torch.dtype) -> int:
        """The memory of the casts that the chunks of a step share.

        Args:
            dtype: What weights are cast to.
        """
        return self._casts.bytes_of(dtype)

    def second_pass(self, block: nn.Module) -> AbstractContextManager[None]:
        """Makes a second pass of a block like the first, which runs now.

        Args:
            block: One of the model's blocks.

        Returns:
            To be entered around the second pass.
        """
        return self._again(block, self._random.current())

    @contextmanager
    def _again(self, block: nn.Module, earlier: Pass | None) -> Iterator[None]:
        now = self._random.current()
        self._random.restore(earlier)
        try:
            with self._casts.used_by(block):
                yield
        finally:
            self._random.restore(now)

    def _forward(
        self,
        chunk: Chunk,
        finished_steps: int,
        device: torch.device,
        computed: torch.dtype | None,
    ) -> Embeddings:
        """One pass of a chunk; a second one gives the same and saves the same tensors.

        Args:
            chunk: The chunk.
            finished_steps: Steps before this one.
            device: Of the model.
            computed: The type that autocast computes in; None: it is off.
        """
        # Only here do pixels reach the device: the device batch is never whole there.
        moved = chunk.to(device, non_blocking=True)
        dtype = next(self.model.parameters()).dtype
        pixels = normalise(moved.images, self.model, dtype)

        last = chunk.first + len(chunk)
        places = torch.arange(chunk.first, last, dtype=torch.int32, device=device)
        self._random.set_pass(words_of(self.seed, finished_steps), places, computed or dtype)
        for norm in self._norms:
            norm.groups = len(chunk) // (self.norm_group or len(chunk))

        # Without autocast's own cache: a cast that passes share would add up their gradients in
        # bf16. A second pass enters it too: in the backward pass autocast is off by then.
        on = computed is not None
        with torch.autocast(device.type, dtype=computed, enabled=on, cache_enabled=False):
            embeddings: Embeddings = self.model(pixels, moved.input_ids)
        return embeddings

    @contextmanager
    def _only_draws_by_pair(self, device: torch.device) -> Iterator[None]:
        """Refuses other draws, in the first pass of a start."""
        # Once a start: what a layer draws from does not change, and the look costs time.
        if self._checked or not self.model.training:
            yield
            return
        with refuse_other_draws(self.model, device):
            yield
        self._checked = True
