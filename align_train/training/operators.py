"""The cost of an operator of torch, from its arguments and its result: FLOPs, and bytes moved.

- *FLOPs*: two for a multiplication with an addition. Matrix products, convolutions and attention
  count; all else is bound by memory. torch's own counter has no formula for the fused attention of
  CPUs. It counts the backward pass of grouped convolutions as if they had one group.
- *Bytes*: an operator reads its inputs once and writes its outputs once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.utils.flop_counter import flop_registry

MATMUL = "matmul"
CONVOLUTION = "convolution"
POINTWISE = "1 x 1 convolution"
DEPTHWISE = "depthwise convolution"
ATTENTION = "attention"
NORMALISATION = "normalisation"
ELEMENTWISE = "element-wise"

COMPUTING = (MATMUL, CONVOLUTION, POINTWISE, DEPTHWISE, ATTENTION)
"""Kinds of operators that take the time of their FLOPs, unless their bytes take longer. Those of a
kind reach similar shares of the hardware's peak."""

MOVING = (NORMALISATION, ELEMENTWISE)
"""Kinds of operators that take the time of the bytes that they move."""

_aten = torch.ops.aten

_CONVOLUTIONS = (_aten.convolution, _aten._convolution, _aten.convolution_backward)
_LOOKUPS = (_aten.embedding, _aten.index, _aten.index_select, _aten.gather)

# Not in the table of every torch. Backward makes the scores again: five products for two.
_ATTENTION_ON_CPU = _aten._scaled_dot_product_flash_attention_for_cpu
_ATTENTION_ON_CPU_BACKWARD = _aten._scaled_dot_product_flash_attention_for_cpu_backward
_BACKWARD_PRODUCTS = 2.5


class Operator(NamedTuple):
    """What one call of an operator costs.

    Attributes:
        kind: One of `COMPUTING` or `MOVING`.
        flops: Floating-point operations.
        read_and_written: Bytes.
    """

    kind: str
    flops: float
    read_and_written: float


class Call(NamedTuple):
    """A call of an operator, as torch dispatches it.

    Attributes:
        func: The operator, in one of its overloads.
        args: As its schema has them: tensors, numbers and lists of these.
        kwargs: The same, by name.
    """

    func: OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def packet(self) -> OpOverloadPacket:
        """The operator, in any of its overloads."""
        packet: OpOverloadPacket = self.func.overloadpacket
        return packet

    def run(self) -> object:
        """Computes it."""
        return self.func(*self.args, **self.kwargs)


Operators = Counter[Operator]
"""How often each kind and size of operator runs."""


def flops_of(operators: Operators) -> float:
    """FLOPs of some operators.

    Args:
        operators: How often each of them runs.
    """
    return float(sum(item.flops * times for item, times in operators.items()))


def bytes_moved_by(operators: Operators) -> float:
    """Bytes that some operators read and write.

    Args:
        operators: How often each of them runs.
    """
    return float(sum(item.read_and_written * times for item, times in operators.items()))


def operator_of(
    call: Call, result: object, *, inputs: list[Tensor], outputs: list[Tensor]
) -> Operator:
    """Finds what a call costs.

    Args:
        call: The call, which moves something: a view does not.
        result: What it has returned.
        inputs: The tensors among its arguments.
        outputs: The tensors in its result.
    """
    flops = _flops(call, result)
    return Operator(_kind(call, flops), flops, _moved(call.packet, inputs, outputs))


def _moved(packet: OpOverloadPacket, inputs: list[Tensor], outputs: list[Tensor]) -> float:
    """Bytes read and written. An expanded tensor is read as often as its memory is large."""
    written = sum(tensor.nbytes for tensor in outputs)
    if packet in _LOOKUPS:
        return 2 * written  # only the rows that are asked for
    read = 0
    for tensor in inputs:
        read += min(tensor.nbytes, tensor.untyped_storage().nbytes())
    return written + read


def _flops(call: Call, result: Any) -> float:
    packet = _out_of_place(call.packet)
    args = call.args
    if packet in (_aten.convolution, _aten._convolution):
        return _convolution(args[0], args[1], result, transposed=args[6])
    if packet is _aten.convolution_backward:
        gradient, input, weight = args[:3]
        needed: int = sum(args[10][:2])  # of the input, of the weight
        return needed * _convolution(input, weight, gradient, transposed=args[7])
    if packet is _ATTENTION_ON_CPU:
        return _attention(args[0], args[1])
    if packet is _ATTENTION_ON_CPU_BACKWARD:
        return _BACKWARD_PRODUCTS * _attention(args[1], args[2])
    if packet in flop_registry:
        return float(flop_registry[packet](*args, **call.kwargs, out_val=result))
    return 0.0


def _out_of_place(packet: OpOverloadPacket) -> OpOverloadPacket:
    """`addmm_` -> `addmm`, whose formula it has."""
    name = packet.__name__
    if not name.endswith("_"):
        return packet
    found: OpOverloadPacket = getattr(_aten, name[:-1], packet)
    return found


def _convolution(input: Tensor, weight: Tensor, output: Tensor, *, transposed: bool) -> float:
    """2 · positions · weights: each weight meets each position of the smaller side once."""
    positions = input if transposed else output
    return 2.0 * positions.shape[0] * math.prod(positions.shape[2:]) * weight.numel()


def _attention(query: Tensor, key: Tensor) -> float:
    """Two products of `[…, length, width]`: queries with keys, and weights with values."""
    return 4.0 * query.numel() * key.shape[-2]


def _kind(call: Call, flops: float) -> str:
    packet = call.packet
    args = call.args
    if packet in _CONVOLUTIONS:
        weight = args[2] if packet is _aten.convolution_backward else args[1]
        if weight.shape[1] == 1 and weight.shape[0] > 1:
            return DEPTHWISE
        return POINTWISE if math.prod(weight.shape[2:]) == 1 else CONVOLUTION
    if "attention" in packet.__name__:
        return ATTENTION
    if flops:
        return MATMUL
    return NORMALISATION if "norm" in packet.__name__ else ELEMENTWISE
