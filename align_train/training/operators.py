"""Counts what a computation costs, operator by operator: FLOPs, bytes moved, memory held at a time.

torch dispatches every operator of a forward or backward pass, of any model. `OperatorCounter` looks
at each one. Under fake tensors nothing is computed, so that a pass of a large model takes seconds
and no memory.

- *FLOPs*: two for a multiplication with an addition. Matrix products, convolutions and attention
  count; all else is bound by memory. torch's own counter has no formula for the fused attention of
  CPUs. It counts the backward pass of grouped convolutions as if they had one group.
- *Bytes*: an operator reads its inputs once and writes its outputs once. A view moves nothing.
- *Memory*: a storage counts from the operator that made it until nobody refers to it.

Not counted: what a kernel takes for itself while it runs, and what an allocator keeps beyond that.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._ops import OpOverload, OpOverloadPacket
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from align_train.strategy.needs import ALL_GATHER, ALL_REDUCE, BROADCAST, REDUCE_SCATTER, Sent

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
_VALUE = _aten._local_scalar_dense.default
_QUESTIONS = (_VALUE, _aten.equal.default)  # about values, which fake tensors do not have

_COLLECTIVES = {
    "allreduce_": ALL_REDUCE,
    "_allgather_base_": ALL_GATHER,
    "_reduce_scatter_base_": REDUCE_SCATTER,
    "broadcast_": BROADCAST,
}
_MOST_ANSWERS = 10_000  # more than any model asks

_UNCOUNTED = ("prim", "profiler")  # namespaces of operators that compute nothing

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


class OperatorCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that run while it is entered.

    Attributes:
        operators: How often each kind and size of operator ran.
        collectives: How often each kind and size of collective was called.
        held: Bytes that operators have made and that somebody still refers to.
        peak: The most bytes held at a time since `forget_peak`.
        gradients: Bytes of the gradients that are complete; see `watch_gradients`.
        peak_beside_gradients: The most bytes held beside complete gradients.
        peak_before_gradients: The most bytes that would be held if every gradient had its memory
            from the start and gave it back when it is complete.
    """

    def __init__(self) -> None:
        """Has counted nothing yet."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: Operators = Counter()
        self.collectives: Sent = Counter()
        self.held = 0
        self.gradients = 0
        self.peak = 0
        self.peak_beside_gradients = 0
        self.peak_before_gradients = 0
        self._all_gradients = 0
        self._answers = 0
        self._storages: dict[int, int] = {}  # of which this counter saw the first use -> bytes

    @property
    def flops(self) -> float:
        """FLOPs of all operators."""
        return flops_of(self.operators)

    @property
    def read_and_written(self) -> float:
        """Bytes that all operators move."""
        return bytes_moved_by(self.operators)

    def forget_peak(self) -> None:
        """Begins to look for peaks anew."""
        self.peak = 0
        self.peak_beside_gradients = 0
        self.peak_before_gradients = 0
        self._see_peak()

    def watch_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Notes when the gradient of each parameter is complete.

        Args:
            parameters: Those that get gradients.
        """
        for parameter in parameters:
            self._all_gradients += parameter.nbytes
            register: Callable[..., object] = parameter.register_post_accumulate_grad_hook
            register(self._complete)

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Runs an operator and counts it."""
        call = Call(func, args, kwargs or {})
        if func.namespace in _UNCOUNTED:
            return call.run()
        if func in _QUESTIONS:
            return self._answer(call)

        result = self._run(call)
        if func.namespace == "c10d":
            self._count_collective(call)
        else:
            self._count(call, result)
        return result

    def _answer(self, call: Call) -> object:
        """Answers a question about values; code goes on as if every condition on fake ones held."""
        asked = call.args[0]
        if asked.is_meta or isinstance(asked, FakeTensor):
            # `while loss > 0.1:` would never end.
            self._answers += 1
            if self._answers > _MOST_ANSWERS:
                raise RuntimeError("it goes on until a value changes, and fake tensors have none")
            return 1 if call.func is _VALUE and asked.dtype != torch.bool else True
        with _disable_current_modes():  # a mode of fake tensors would ask a fake one
            return call.run()

    def _run(self, call: Call) -> object:
        return call.run()

    def _count_collective(self, call: Call) -> None:
        kind = _COLLECTIVES.get(call.packet.__name__)
        if kind is not None:
            size = max(tensor.nbytes for tensor in _tensors(call.args))
            self.collectives[kind, size] += 1

    def _count(self, call: Call, result: object) -> None:
        inputs = _tensors((call.args, call.kwargs))
        outputs = _tensors(result)
        known = {tensor.untyped_storage()._cdata for tensor in inputs}
        made = [tensor for tensor in outputs if tensor.untyped_storage()._cdata not in known]
        for tensor in made:
            self._hold(tensor.untyped_storage())
        self._see_peak()

        # A view moves nothing.
        if not made and not call.func._schema.is_mutable:
            return
        flops = _flops(call, result)
        moved = _moved(call.packet, inputs, outputs)
        self._add(Operator(_kind(call, flops), flops, moved))

    def _add(self, operator: Operator) -> None:
        self.operators[operator] += 1

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._storages:
            return
        self._storages[key] = storage.nbytes()
        self.held += storage.nbytes()
        weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self.held -= self._storages.pop(key)

    def _complete(self, parameter: Tensor) -> None:
        self.gradients += parameter.nbytes
        self._see_peak()

    def _see_peak(self) -> None:
        beside = self.held - self.gradients
        self.peak = max(self.peak, self.held)
        self.peak_beside_gradients = max(self.peak_beside_gradients, beside)
        before = beside + self._all_gradients - self.gradients
        self.peak_before_gradients = max(self.peak_before_gradients, before)


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


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
