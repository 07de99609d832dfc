"""Counts what a computation costs, operator by operator: FLOPs, bytes moved, memory held at a time.

torch dispatches every operator of a forward or backward pass, of any model. `OperatorCounter` looks
at each one. Under fake tensors nothing is computed, so that a pass of a large model takes seconds
and no memory.

- *FLOPs and bytes*: those of each operator, by `operators.py`. A view moves nothing.
- *Memory*: a storage counts from the operator that made it until nobody refers to it.

Not counted: what a kernel takes for itself while it runs, and what an allocator keeps beyond that.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from align_train.strategy.needs import ALL_GATHER, ALL_REDUCE, BROADCAST, REDUCE_SCATTER, Sent
from align_train.training.operators import (
    Call,
    Operator,
    Operators,
    bytes_moved_by,
    flops_of,
    operator_of,
)

_VALUE = torch.ops.aten._local_scalar_dense.default
_QUESTIONS = (_VALUE, torch.ops.aten.equal.default)  # about values, which fake tensors do not have

_COLLECTIVES = {
    "allreduce_": ALL_REDUCE,
    "_allgather_base_": ALL_GATHER,
    "_reduce_scatter_base_": REDUCE_SCATTER,
    "broadcast_": BROADCAST,
}
_MOST_ANSWERS = 10_000  # more than any model asks

_UNCOUNTED = ("prim", "profiler")  # namespaces of operators that compute nothing


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
        self._add(operator_of(call, result, inputs=inputs, outputs=outputs))

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
