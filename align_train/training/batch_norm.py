"""BatchNorm over norm groups: the same numbers however many groups go through the towers together.

A *norm group* is a fixed number of consecutive pairs of the global batch. Each is normalised by its
own statistics. `running_statistics.py` moves the running ones.

How: PyTorch's kernel for group normalisation treats each norm group as one sample, and each channel
as one of its groups. Compiled code gets the plain formula and its derivative, so that the compiler
fuses statistics, normalisation and activation.

Limit: a layer that the model calls twice in a pass keeps the statistics of its last call.

Price: a pass over several groups in eager mode copies its activations to another layout, in float32
at least, and back; one group needs no copy.
"""

from __future__ import annotations

import torch
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from align_train.errors import UserError

# Layers that normalise as PyTorch does, and then may drop and activate.
_KINDS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    BatchNormAct2d,
    SyncBatchNormAct,
)

Statistics = tuple[Tensor, Tensor]
"""Of each norm group: the mean and 1 / sqrt(variance + eps), `[groups, channels]` each."""


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

        normalised: Tensor
        if torch.compiler.is_compiling():
            normalised, mean, rstd = _Fused.apply(input, self.weight, self.bias, groups, self.eps)
        elif groups == 1:
            normalised, mean, rstd = torch.native_batch_norm(
                input, self.weight, self.bias, None, None, True, 0.0, self.eps
            )
        else:
            normalised, mean, rstd = _ByGroup.apply(input, self.weight, self.bias, groups, self.eps)

        shape = (groups, self.num_features)
        self.statistics = mean.detach().view(shape), rstd.detach().view(shape)
        return normalised


class _Context(FunctionCtx):
    """What forward leaves for backward."""

    saved_tensors: tuple[Tensor, Tensor | None, Tensor, Tensor]
    needs_input_grad: tuple[bool, ...]
    groups: int
    has_bias: bool

    # torch takes None, too, against its own type.
    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


class _ByGroup(torch.autograd.Function):
    """Several norm groups in eager mode, by the kernel of group normalisation."""

    @staticmethod
    def forward(
        ctx: _Context,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        groups: int,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # At least float32: on GPUs the kernel rounds statistics to its input's dtype.
        dtype = _wide(input.dtype)
        flat = _to_instances(input, groups, dtype)
        channels = input.shape[1]
        result, mean, rstd = torch.native_group_norm(
            flat, weight, bias, groups, channels, flat.shape[2], channels, eps
        )

        # The input as it came: in bf16 it is half as large as its copy.
        ctx.save_for_backward(input, weight, mean, rstd)
        ctx.mark_non_differentiable(mean, rstd)
        # Or autograd would make zeros for these two.
        ctx.set_materialize_grads(False)
        return _from_instances(result, groups, like=input), mean, rstd

    @staticmethod
    @once_differentiable
    def backward(
        ctx: _Context, gradient: Tensor | None, *_: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        if gradient is None:
            return None, None, None, None, None
        input, weight, mean, rstd = ctx.saved_tensors
        groups, channels = mean.shape
        dtype = _wide(input.dtype)
        flat = _to_instances(input, groups, dtype)

        of_input, of_weight, of_bias = torch.ops.aten.native_group_norm_backward(
            _to_instances(gradient, groups, dtype),
            flat,
            mean,
            rstd,
            weight,
            groups,
            channels,
            flat.shape[2],
            channels,
            (ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[2]),
        )
        if of_input is not None:
            of_input = _from_instances(of_input, groups, like=input)
        return of_input, of_weight, of_bias, None, None


def _to_instances(input: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """`[pairs, channels, …]` -> `[groups, channels, values of a group]`, a copy."""
    by_group = input.view(groups, -1, *input.shape[1:]).transpose(1, 2)
    copied = by_group.to(dtype, memory_format=torch.contiguous_format, copy=True)
    return copied.flatten(2)


def _from_instances(values: Tensor, groups: int, like: Tensor) -> Tensor:
    """The reverse of `_to_instances`, a tensor with the dtype and the layout of `like`."""
    result = torch.empty_like(like)
    by_group = result.view(groups, -1, *result.shape[1:]).transpose(1, 2)
    # Not a view: the activation may change it in place.
    by_group.copy_(values.view(by_group.shape))
    return result


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type itself, or float32 if that is wider."""
    return dtype if dtype == torch.float64 else torch.float32


class _Fused(torch.autograd.Function):
    """The formula in plain operations, which the compiler fuses.

    Two kernels forward (statistics; normalise and activate), and two backward. The derivative that
    autograd would make of the formula reads and writes the activations several times as often.
    """

    @staticmethod
    def forward(
        ctx: _Context,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        groups: int,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        values = input.to(_wide(input.dtype))
        by_group, others = _by_group(values, groups)
        variance, mean = torch.var_mean(by_group, others, correction=0, keepdim=True)
        rstd = torch.rsqrt(variance + eps)

        normalised = (values - _of_rows(mean, values)) * _of_rows(rstd, values)
        shape = (-1, *[1] * (input.dim() - 2))
        if weight is not None:
            normalised = normalised * weight.view(shape)
        if bias is not None:
            normalised = normalised + bias.view(shape)

        ctx.save_for_backward(input, weight, mean, rstd)
        ctx.groups = groups
        ctx.has_bias = bias is not None
        ctx.mark_non_differentiable(mean, rstd)
        # In torch 2.11, compiled code loses the gradient of a result that `.to` leaves as it is.
        if normalised.dtype != input.dtype:
            normalised = normalised.to(input.dtype)
        return normalised, mean, rstd

    @staticmethod
    def backward(
        ctx: _Context, gradient: Tensor, *_: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        input, weight, mean, rstd = ctx.saved_tensors
        wide = _wide(input.dtype)
        values = input.to(wide)
        gradients = gradient.to(wide)
        normalised = (values - _of_rows(mean, values)) * _of_rows(rstd, values)

        # The same two sums of each group serve input, weight and bias: one pass.
        by_group, others = _by_group(gradients, ctx.groups)
        of_gradients = by_group.sum(others, keepdim=True)
        by_group, others = _by_group(gradients * normalised, ctx.groups)
        of_products = by_group.sum(others, keepdim=True)

        factor = rstd
        if weight is not None:
            factor = rstd * weight.view(-1, *[1] * (input.dim() - 2))
        samples = values.numel() // rstd.numel()
        shift = _of_rows(of_gradients / samples, values)
        slope = _of_rows(of_products / samples, values)
        of_input = _of_rows(factor, values) * (gradients - shift - normalised * slope)

        of_weight = None if weight is None else of_products.sum(0).flatten()
        of_bias = of_gradients.sum(0).flatten() if ctx.has_bias else None
        return of_input.to(input.dtype), of_weight, of_bias, None, None


def _by_group(values: Tensor, groups: int) -> tuple[Tensor, tuple[int, ...]]:
    """`[groups, pairs, channels, …]`, and all dimensions but groups and channels."""
    grouped = values.view(groups, -1, *values.shape[1:])
    return grouped, (1, *range(3, grouped.dim()))


def _of_rows(statistic: Tensor, like: Tensor) -> Tensor:
    """`[groups, 1, channels, 1, …]` -> `[rows, channels, 1, …]`.

    Activations keep their shape, since the compiler would copy a result of another shape.
    """
    pairs = len(like) // len(statistic)
    return statistic.expand(-1, pairs, *statistic.shape[2:]).flatten(0, 1)


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
