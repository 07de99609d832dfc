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

    Each pass over a chunk finds fresh buffers in the place of `running_mean` and `running_var` and momentum 1, so that it
    leaves exactly the chunk's own statistics there. (Updating the same buffers chunk after chunk would change what autograd
    saved for the chunks before.) `num_batches_tracked` is out of sight: it counts steps, not passes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.norms = [
            module
            for module in model.modules()
            if isinstance(module, _BatchNorm)
            and module.training
            and module.running_mean is not None
        ]
        self.running: list[Tensor] = [
            getattr(norm, name) for norm in self.norms for name in _STATISTICS
        ]
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

    def _put(
        self,
        buffers: Sequence[Tensor],
        steps: Sequence[Tensor | None],
        momenta: Sequence[float | None],
    ) -> None:
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
def without_statistics(module: nn.Module) -> Iterator[None]:
    """BatchNorm computes as in training in here, and keeps nothing."""
    with BatchNormStatistics(module).ignore():  # what it finds now is what it puts back
        yield
