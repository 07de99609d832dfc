"""Normalises rows by the statistics of their norm group, whether code is compiled or not.

How: PyTorch's kernel for group normalisation treats each norm group as one sample, and each channel
as one of its groups. Compiled code gets the plain formula and its derivative, so that the compiler
fuses statistics, normalisation and activation.

Price: a pass over several groups in eager mode copies its activations to another layout, in float32
at least, and back; one group needs no copy.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

Statistics = tuple[Tensor, Tensor]
"""Of each norm group: the mean and 1 / sqrt(variance + eps), `[groups, channels]` each."""


def normalise_groups(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float
) -> tuple[Tensor, Statistics]:
    """Normalises, then scales and shifts each channel.

    Args:
        input: `[rows, channels, …]`, as many rows of each norm group, group by group.
        weight: The scale, `[channels]`; None: 1.
        bias: The shift, `[channels]`; None: 0.
        groups: Norm groups among the rows.
        eps: Added to each variance.

    Returns:
        A tensor of the input's shape and type, and the statistics, which have no gradient.
    """
    normalised: Tensor
    if torch.compiler.is_compiling():
        normalised, mean, rstd = _Fused.apply(input, weight, bias, groups, eps)
    elif groups == 1:
        normalised, mean, rstd = torch.native_batch_norm(
            input, weight, bias, None, None, True, 0.0, eps
        )
    else:
        normalised, mean, rstd = _ByGroup.apply(input, weight, bias, groups, eps)
    return normalised, (mean.detach().view(groups, -1), rstd.detach().view(groups, -1))


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
