"""BatchNorm's running statistics: once a step, by the mean over all chunks of the global batch.

Each chunk is normalised by its own statistics. The running ones then move by one step of their
moving average, alike on every rank, however the chunks are spread.

Price: one all-reduce of 2 floats per channel and step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from align_train.cluster.collectives import all_reduce_, world_size

_STATISTICS = ("running_mean", "running_var")


class BatchNormStatistics:
    """Collects one step's statistics from chunk after chunk, then moves the running ones once.

    Each pass over a chunk finds fresh buffers in the place of `running_mean` and `running_var`, and
    momentum 1, so that it leaves exactly the chunk's own statistics there.
    """

    def __init__(self, model: nn.Module) -> None:
        """Finds the layers whose statistics this step moves.

        Args:
            model: The model; its BatchNorm layers in evaluation mode (a locked tower) stay out.
        """
        self.norms: list[_BatchNorm] = []
        for module in model.modules():
            if not isinstance(module, _BatchNorm) or not module.training:
                continue
            if module.running_mean is not None:
                self.norms.append(module)

        self.running: list[Tensor] = []
        for norm in self.norms:
            self.running += [getattr(norm, name) for name in _STATISTICS]
        self.steps: list[Tensor | None] = [norm.num_batches_tracked for norm in self.norms]
        self.momenta = [norm.momentum for norm in self.norms]

        self.sums = [torch.zeros_like(buffer) for buffer in self.running]
        self.chunks = 0

    def collect(self) -> AbstractContextManager[None]:
        """Wraps the first pass over a chunk."""
        return self._fresh_buffers(keep=True)

    def ignore(self) -> AbstractContextManager[None]:
        """Wraps a recomputation, whose statistics are dropped."""
        return self._fresh_buffers(keep=False)

    @torch.no_grad()
    def finish(self) -> None:
        """Moves the running statistics one step towards the mean over the global batch's chunks.

        Collective. A mean that is not finite moves nothing: that step is skipped, or ends the run,
        and must leave no trace here.
        """
        if not self.norms:
            return

        # One all-reduce for all layers.
        mean = torch.cat([total.flatten() for total in self.sums]) / self.chunks
        all_reduce_(mean).div_(world_size())
        before = torch.cat([buffer.flatten() for buffer in self.running])
        mean = torch.where(mean.isfinite().all(), mean, before)

        parts = torch.split(mean, [total.numel() for total in self.sums])
        for index, (buffer, part) in enumerate(zip(self.running, parts, strict=True)):
            momentum = self.momenta[index // len(_STATISTICS)]
            assert momentum is not None, "cumulative BatchNorm has no moving average"
            buffer.lerp_(part.view_as(buffer), momentum)

        for steps in self.steps:
            if steps is not None:
                steps.add_(1)

    @contextmanager
    def _fresh_buffers(self, *, keep: bool) -> Iterator[None]:
        # Updating the same buffers chunk after chunk would change what autograd has saved for the
        # chunks before. `num_batches_tracked` is out of sight: it counts steps, not passes.
        fresh = [torch.zeros_like(buffer) for buffer in self.running]
        self._put(fresh, [None] * len(self.norms), [1.0] * len(self.norms))
        try:
            yield
        finally:
            self._put(self.running, self.steps, self.momenta)

        if keep and fresh:
            torch._foreach_add_(self.sums, fresh)  # one kernel, not two a layer
            self.chunks += 1

    def _put(
        self,
        buffers: Sequence[Tensor],
        steps: Sequence[Tensor | None],
        momenta: Sequence[float | None],
    ) -> None:
        for index, norm in enumerate(self.norms):
            for offset, name in enumerate(_STATISTICS):
                norm._buffers[name] = buffers[len(_STATISTICS) * index + offset]
            norm._buffers["num_batches_tracked"] = steps[index]
            norm.momentum = momenta[index]


@contextmanager
def without_statistics(module: nn.Module) -> Iterator[None]:
    """Lets BatchNorm compute as in training, and keep nothing.

    Args:
        module: The model or a block of it.
    """
    # During `BatchNormStatistics.collect` the buffers found here are its fresh ones: they return.
    with BatchNormStatistics(module).ignore():
        yield
