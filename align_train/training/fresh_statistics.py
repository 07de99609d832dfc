"""BatchNorm's statistics of a model whose weights nobody has trained: an average, or a mix.

As SWA's `update_bn` (Izmailov et al. 2018, arXiv 1803.05407, section 3.3), but over norm groups, as
training has them: the running mean and variance become the means over all groups of what each group
has. Only BatchNorm is in training mode: neither dropout nor drop path, which an evaluation does not
have either.

Price: one forward pass of the towers with BatchNorm.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from align_train.model import TrainableModel
from align_train.stream.batch import normalise
from align_train.training.batch_norm import GroupBatchNorm, group_batch_norms
from align_train.training.running_statistics import RunningStatistics


def moving_norms(model: TrainableModel) -> list[GroupBatchNorm]:
    """The BatchNorm layers of the image tower whose statistics training would move.

    Those of what is locked do not count: their weights are what they were. A text tower has none,
    unless a user's own class brings some; these stay averages.

    Args:
        model: The model. It is in evaluation mode afterwards, with layers that know norm groups.
    """
    group_batch_norms(model)
    model.train()
    norms = []
    for layer in model.image_tower.modules():
        if isinstance(layer, GroupBatchNorm) and layer.training and layer.track_running_stats:
            norms.append(layer)
    model.eval()
    return norms


@torch.no_grad()
def renew_statistics(model: TrainableModel, groups: Iterable[Tensor]) -> int:
    """Computes the statistics of these layers anew.

    Args:
        model: The model. It is in evaluation mode afterwards.
        groups: The images of one norm group after the other, uint8 `[group, height, width, 3]`.

    Returns:
        The number of groups.
    """
    norms = moving_norms(model)
    momenta = [norm.momentum for norm in norms]
    device = next(model.parameters()).device
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # the mean over all groups takes the place of what was there

    statistics = RunningStatistics(norms)
    statistics.begin_step()
    count = 0
    for pixels in groups:
        model.encode_image(normalise(pixels.to(device), model))
        statistics.collect()
        count += 1
    statistics.finish_step()

    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    return count
