"""BatchNorm over norm groups: the same numbers however many groups go through the towers together.

A *norm group* is a fixed number of consecutive pairs of the global batch. Each is normalised by its
own statistics (`normalisation.py` says how). `running_statistics.py` moves the running ones.

Limit: a layer that the model calls twice in a pass keeps the statistics of its last call.
"""

from __future__ import annotations

from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from align_train.errors import UserError
from align_train.training.normalisation import Statistics, normalise_groups

# Layers that normalise as PyTorch does, and then may drop and activate.
_KINDS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    BatchNormAct2d,
    SyncBatchNormAct,
)


class GroupBatchNorm(_BatchNorm):
    """BatchNorm that normalises each norm group by its own statistics.

    It takes the place of another BatchNorm layer, with its parameters and buffers under the same
    names. In evaluation mode it is that layer.

    Attributes:
        groups: Norm groups of the pass under way.
        statistics: Of the last training pass; `RunningStatistics.collect` takes them.
        samples: Values that each statistic of the last pass was computed from.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        """Takes over a layer.

        Args:
            norm: The layer; timm's with an activation is fine.
        """
        super().__init__(
            norm.num_features,
            eps=norm.eps,
            momentum=norm.momentum,
            affine=norm.affine,
            track_running_stats=norm.track_running_stats,
            device="meta",  # it takes the tensors of the old one
        )
        self._parameters.update(norm._parameters)
        self._buffers.update(norm._buffers)
        self.training = norm.training

        # Timm's layers drop and activate too.
        self.drop = getattr(norm, "drop", None) or nn.Identity()
        self.act = getattr(norm, "act", None) or nn.Identity()
        self.groups = 1
        self.statistics: Statistics | None = None
        self.samples = 0

    def forward(self, input: Tensor) -> Tensor:
        """Normalises.

        Args:
            input: `[rows, channels, …]`. In training mode, as many rows of each pair, pair by pair.

        Returns:
            A tensor of the same shape and type.

        Raises:
            ValueError: The rows cannot be shared out over the norm groups.
        """
        if self.training:
            normalised = self._by_group(input)
        else:
            normalised = batch_norm(
                input,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                training=self.running_mean is None,  # a layer that keeps none
                eps=self.eps,
            )
        activated: Tensor = self.act(self.drop(normalised))
        return activated

    def _by_group(self, input: Tensor) -> Tensor:
        groups = self.groups
        if len(input) % groups:
            raise ValueError(f"BatchNorm: {len(input)} rows for {groups} norm groups")
        self.samples = input.numel() // (groups * self.num_features)

        normalised, self.statistics = normalise_groups(
            input, self.weight, self.bias, groups, self.eps
        )
        return normalised


def group_batch_norms(model: nn.Module) -> list[GroupBatchNorm]:
    """Puts `GroupBatchNorm` in the place of every BatchNorm layer.

    Args:
        model: Changed in place; the names of its parameters and buffers stay.

    Returns:
        The new layers, in the model's order.

    Raises:
        UserError: A trained layer is of a kind with a forward pass of its own.
    """
    replaced: dict[nn.Module, GroupBatchNorm] = {}
    for path, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, _BatchNorm) or isinstance(child, GroupBatchNorm):
                continue
            if type(child) not in _KINDS:
                if child.training:
                    raise UserError(
                        f"{path}.{name}: BatchNorm of the kind {type(child).__name__} does not "
                        f"know norm groups; take nn.BatchNorm or timm's BatchNormAct2d"
                    )
                continue

            if child.momentum is None and child.training:
                raise UserError(
                    f"{path}.{name}: BatchNorm with momentum=None averages all steps since the "
                    f"beginning; give it a momentum, e.g. 0.1"
                )

            # A layer that stands in two places stays one layer.
            layer = replaced.get(child) or GroupBatchNorm(child)
            replaced[child] = layer
            setattr(parent, name, layer)
    return list(replaced.values())
