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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from align_train.batch import Chunk, normalise
from align_train.distributed import all_reduce_, world_size

_STATISTICS = ("running_mean", "running_var")


class BatchNormStatistics:
    """Collects one step's statistics from chunk after chunk, then moves the running ones once.

    Each pass over a chunk finds fresh buffers in the place of `running_mean` and `running_var` and momentum 1, so that it
    leaves exactly the chunk's own statistics there. (Updating the same buffers chunk after chunk would change what autograd
    saved for the chunks before.) `num_batches_tracked` is out of sight: it counts steps, not passes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.norms = [
            module
            for module in model.modules()
            if isinstance(module, _BatchNorm) and module.training and module.running_mean is not None
        ]
        self.running: list[Tensor] = [getattr(norm, name) for norm in self.norms for name in _STATISTICS]
        self.steps: list[Tensor | None] = [norm.num_batches_tracked for norm in self.norms]
        self.momenta = [norm.momentum for norm in self.norms]
        self.sums = [torch.zeros_like(buffer) for buffer in self.running]
        self.chunks = 0

    def collect(self) -> AbstractContextManager[None]:
        """Around the first pass over a chunk."""
        return self._fresh_buffers(keep=True)

    def ignore(self) -> AbstractContextManager[None]:
        """Around a recomputation: what it finds is dropped."""
        return self._fresh_buffers(keep=False)

    @contextmanager
    def _fresh_buffers(self, *, keep: bool) -> Iterator[None]:
        fresh = [torch.zeros_like(buffer) for buffer in self.running]
        self._put(fresh, [None] * len(self.norms), [1.0] * len(self.norms))
        try:
            yield
        finally:
            self._put(self.running, self.steps, self.momenta)
        if keep and fresh:
            torch._foreach_add_(self.sums, fresh)
            self.chunks += 1

    def _put(self, buffers: Sequence[Tensor], steps: Sequence[Tensor | None], momenta: Sequence[float | None]) -> None:
        for number, norm in enumerate(self.norms):
            for offset, name in enumerate(_STATISTICS):
                norm._buffers[name] = buffers[2 * number + offset]
            norm._buffers["num_batches_tracked"] = steps[number]
            norm.momentum = momenta[number]

    @torch.no_grad()
    def finish(self) -> None:
        """One moving-average step towards the plain mean over all chunks of the global batch; the same on every rank.

        A mean that is not finite moves nothing: such a step is skipped, or ends the run, and must not be remembered here.
        """
        if not self.norms:
            return
        mean = torch.cat([part.flatten() for part in self.sums]) / self.chunks
        all_reduce_(mean).div_(world_size())
        known = torch.cat([buffer.flatten() for buffer in self.running])
        mean = torch.where(mean.isfinite().all(), mean, known)
        parts = torch.split(mean, [part.numel() for part in self.sums])
        for number, (buffer, part) in enumerate(zip(self.running, parts, strict=True)):
            momentum = self.momenta[number // 2]
            assert momentum is not None, "cumulative BatchNorm has no moving average"
            buffer.lerp_(part.view_as(buffer), momentum)
        for steps in self.steps:
            if steps is not None:
                steps.add_(1)


@contextmanager
def _without_statistics(module: nn.Module) -> Iterator[None]:
    """BatchNorm computes as in training in here, and keeps nothing."""
    with BatchNormStatistics(module).ignore():  # what it finds now is what it puts back
        yield


def checkpoint_block(block: nn.Module) -> None:
    """Activation checkpointing of one encoder block: in training only its inputs are kept, and it is run again backward."""
    forward = block.forward

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        contexts = lambda: (nullcontext(), _without_statistics(block))  # noqa: E731
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    block.forward = checkpointed


def _own_casts(device: str) -> Callable[[], AbstractContextManager[Any]]:
    """Autocast as it is now, with weights cast anew for each chunk: a cast that chunks share would add up their gradients in
    bf16. To be entered also where it is off by then, in backward."""
    lower, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return lambda: torch.autocast(device, dtype=lower, enabled=enabled, cache_enabled=False)


def _forgetful(forward: Callable[[], Any], first: AbstractContextManager[Any], again: AbstractContextManager[Any]) -> Any:
    """`forward()` within `first`, of which autograd keeps its nodes and no tensor: when backward wants one, `forward` runs
    again, within `again`, and what it saves is kept until it is used.

    What `torch.utils.checkpoint` does, without its objects for every tensor saved: half a megabyte for each chunk of a model
    whose activations take a hundred, and between them the heap is left in pieces.
    """
    expected = 0
    made_again: list[Tensor | None] = []

    def number(_: Tensor) -> int:
        nonlocal expected
        expected += 1
        return expected - 1

    def keep(tensor: Tensor) -> None:
        made_again.append(tensor.detach())

    def recomputed(place: int) -> Tensor:
        if not made_again:
            with again, torch.enable_grad(), saved_tensors_hooks(keep, _no_second_graph):
                forward()
            if len(made_again) != expected:
                raise RuntimeError(f"a chunk's second pass saved {len(made_again)} tensors, its first {expected}")
        tensor, made_again[place] = made_again[place], None
        assert tensor is not None
        return tensor

    with first, saved_tensors_hooks(number, recomputed):
        return forward()


def _no_second_graph(_: None) -> Tensor:
    raise AssertionError("nothing goes backward through a second pass")


def seed_chunk(seed: int, step: int, number: int) -> None:
    """Seeds PyTorch's generators, on every device, for one chunk of one step."""
    digest = hashlib.blake2b(f"{seed}/{step}/{number}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)


def encode_chunks(model: nn.Module, chunks: Sequence[Chunk], *, seed: int, step: int, recompute: bool) -> tuple[Tensor, Tensor]:
    """All chunks of the device batch through both towers: image and text embeddings, `[device batch, dim]` each.

    recompute: keep no activations (gradient caching); the gradients are the same. In training mode BatchNorm's running
    statistics move by one step.
    """
    statistics = BatchNormStatistics(model)
    dtype = next(model.parameters()).dtype
    casts = _own_casts(chunks[0].images.device.type)

    def forward(chunk: Chunk) -> tuple[Tensor, Tensor]:
        seed_chunk(seed, step, chunk.number)
        with casts():
            return model(normalise(chunk.images, dtype), chunk.input_ids)  # type: ignore[no-any-return]

    embeddings = []
    for chunk in chunks:
        if recompute:
            embeddings.append(_forgetful(partial(forward, chunk), statistics.collect(), statistics.ignore()))
        else:
            with statistics.collect():
                embeddings.append(forward(chunk))
    if model.training:
        statistics.finish()
    images, texts = zip(*embeddings, strict=True)
    return torch.cat(images), torch.cat(texts)
