"""BatchNorm's running statistics: once a step, by the mean over the global batch's norm groups.

They move alike on every rank, however the groups are spread over ranks and passes. If memory runs
out, the step is repeated, and only its last attempt moves them.

Price: some ten operations a pass, for all layers together; one all-reduce of 2 floats per channel
and step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from align_train.cluster.collectives import all_reduce_, world_size
from align_train.training.batch_norm import GroupBatchNorm


def has_norm_groups(model: nn.Module) -> bool:
    """Whether a part of a model that is trained has BatchNorm."""
    return any(isinstance(part, _BatchNorm) and part.training for part in model.modules())


class RunningStatistics:
    """The running statistics of a model's layers, which move once a step."""

    def __init__(self, norms: Sequence[GroupBatchNorm]) -> None:
        """Keeps the layers.

        Args:
            norms: All of them; those in evaluation mode (a locked tower) never move.
        """
        self._all = norms
        self._norms: list[GroupBatchNorm] = []
        self._means: Tensor | None = None
        self._variances: Tensor | None = None
        self._groups = 0
        # Of each channel, for the layers' present numbers of samples.
        self._samples: tuple[int, ...] = ()
        self._corrections: Tensor | None = None

    def begin_step(self) -> None:
        """Forgets what was collected: a step begins, or is repeated."""
        self._norms = [norm for norm in self._all if norm.training and norm.track_running_stats]
        self._means = None
        self._variances = None
        self._groups = 0
        for norm in self._all:
            norm.statistics = None

    @torch.no_grad()
    def collect(self) -> None:
        """Takes in the statistics of the pass that has just ended.

        A pass that is made again in the backward pass is not to be collected.
        """
        means: list[Tensor] = []
        rstds: list[Tensor] = []
        # A layer that takes no part in the passes keeps its statistics.
        self._norms = [norm for norm in self._norms if norm.statistics is not None]
        for norm in self._norms:
            assert norm.statistics is not None
            means.append(norm.statistics[0])
            rstds.append(norm.statistics[1])
            norm.statistics = None
        if not means:
            return

        # All layers at once: a few operations a pass.
        mean = torch.cat(means, dim=1)
        variance = torch.cat(rstds, dim=1).pow_(-2)
        self._groups += len(mean)
        if self._means is None or self._variances is None:
            self._means, self._variances = mean.sum(0), variance.sum(0)
        else:
            self._means += mean.sum(0)
            self._variances += variance.sum(0)

    @torch.no_grad()
    def finish_step(self) -> None:
        """Moves the running statistics one step towards the mean over the global batch's groups.

        Collective. An average that is not finite moves nothing: that step is skipped, or ends the
        run. So is a step with a loss or gradient that is not finite: then do not call this.
        """
        if self._means is None or self._variances is None:
            return

        # One all-reduce for all layers.
        averages = torch.stack((self._means, self._variances)) / self._groups
        all_reduce_(averages).div_(world_size())
        eps, unbiased = self._eps_and_bessel(averages)
        # Rounding may leave a variance of zero below zero.
        averages[1].sub_(eps).clamp_(min=0).mul_(unbiased)

        means: list[Tensor] = []
        variances: list[Tensor] = []
        counts: list[Tensor] = []
        for norm in self._norms:
            assert norm.running_mean is not None and norm.running_var is not None
            assert norm.num_batches_tracked is not None
            means.append(norm.running_mean)
            variances.append(norm.running_var)
            counts.append(norm.num_batches_tracked)
        before = torch.stack((torch.cat(means), torch.cat(variances)))
        finite = averages.isfinite().all()
        averages = torch.where(finite, averages, before.to(averages.dtype))

        self._move(averages.to(before.dtype), means, variances)
        # A list: one tensor for all would be read on the host.
        torch._foreach_add_(counts, [finite.to(counts[0].dtype)] * len(counts))
        self._means = None
        self._variances = None

    def _move(self, averages: Tensor, means: list[Tensor], variances: list[Tensor]) -> None:
        sizes = [norm.num_features for norm in self._norms]
        targets_of_means = torch.split(averages[0], sizes)
        targets_of_variances = torch.split(averages[1], sizes)

        # A model has one momentum as a rule: then this is one operation.
        by_momentum: dict[float, list[int]] = {}
        for index, norm in enumerate(self._norms):
            assert norm.momentum is not None, "cumulative BatchNorm has no moving average"
            by_momentum.setdefault(norm.momentum, []).append(index)

        for momentum, indices in by_momentum.items():
            buffers = [means[index] for index in indices]
            buffers += [variances[index] for index in indices]
            targets = [targets_of_means[index] for index in indices]
            targets += [targets_of_variances[index] for index in indices]
            torch._foreach_lerp_(buffers, targets, momentum)

    def _eps_and_bessel(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Of each channel: eps, and the factor that makes its variance an unbiased one."""
        samples = tuple(norm.samples for norm in self._norms)
        if samples != self._samples or self._corrections is None:
            # A copy to the device would wait for it: once, not in every step.
            sizes = torch.tensor([norm.num_features for norm in self._norms])
            values = torch.tensor(
                [[norm.eps for norm in self._norms], [_bessel(count) for count in samples]],
                dtype=torch.float64,
            )
            self._samples = samples
            self._corrections = values.repeat_interleave(sizes, dim=1).to(like)
        eps, unbiased = self._corrections
        return eps, unbiased


def _bessel(samples: int) -> float:
    """The factor from a biased variance to an unbiased one, as PyTorch's running one is."""
    return samples / max(samples - 1, 1)
