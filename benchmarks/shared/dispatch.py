"""What one step asks of PyTorch, counted as it is dispatched: operators, launches, waits.

On a GPU the host starts each operator's kernels one by one, and waits for the device whenever it
reads a value. Both can be counted on a CPU, because PyTorch dispatches the same operators there.
The benchmark `operators` and `tests/training/test_synchronisation.py` count with these classes.

Price: Python code for every operator, some 10 µs.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import get_ident
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Another shape on the same memory: no work. `is_view` does not know these.
_VIEWS = {"alias", "detach", "lift_fresh", "_reshape_alias", "_unsafe_view"}
# Memory that nobody fills.
_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
# They compute on the host, or copy one value to it.
_WITHOUT_KERNEL = {"promote_types", "_local_scalar_dense"}

# Tensors that one kernel of a `_foreach_*` operator serves, by its number of lists (PyTorch's
# MultiTensorApply.cuh); and blocks of 65,536 elements.
_FOREACH_TENSORS = (110, 64, 48, 36)
_FOREACH_BLOCKS = 320
_FOREACH_BLOCK = 65_536

# Methods that give the host a value, or all values, of a tensor.
_READS = {
    "__array__",
    "__bool__",
    "__complex__",
    "__float__",
    "__format__",
    "__index__",
    "__int__",
    "cpu",
    "item",
    "numpy",
    "tolist",
}
_TORCH = Path(torch.__file__).parent

Function = Callable[..., Any]


@dataclass
class Tally:
    """The operators of one part of a step.

    Attributes:
        operators: How often each was dispatched, by name; no views, no allocations.
        launches: Kernels that they would start on a GPU, at least.
        moved: Bytes of their inputs and results, at least what their kernels read and write.
    """

    operators: Counter[str] = field(default_factory=Counter)
    launches: int = 0
    moved: int = 0

    @property
    def total(self) -> int:
        """All operators."""
        return self.operators.total()


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is dispatched in this thread while it is entered, part by part.

    *Operators* are all but views and allocations of memory that nobody fills. *Launches* are those
    that start at least one kernel on a GPU, each counted once. Not counted are results without an
    element, the type of a result, and the copy of one value to the host. A `_foreach_*` operator
    counts as one operator. Its launches are those of PyTorch's rule: a kernel takes 110 tensors of
    one list (64 of each of two, 48 of three, 36 of four) or 320 blocks of 65,536 elements; lists of
    unequal shapes take a kernel for each tensor.

    Attributes:
        parts: The tallies by the names of the parts; `""` outside of all.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parts: dict[str, Tally] = {}
        self._part = ""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts as a part of the step; a part within a part counts for the inner one alone."""
        outer = self._part
        self._part = name
        try:
            yield
        finally:
            self._part = outer

    def within(self, name: str, function: Function) -> Function:
        """Returns the function, whose operators count as a part of the step."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return counted

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))

        name = func.overloadpacket.__name__
        if not func.is_view and name not in _VIEWS | _ALLOCATIONS:
            tally = self.parts.setdefault(self._part, Tally())
            tally.operators[name] += 1
            tally.launches += _launches(name, args, result)
            tally.moved += _bytes_of(args) + _bytes_of(result)
        return result


def _launches(name: str, args: tuple[Any, ...], result: object) -> int:
    if name in _WITHOUT_KERNEL:
        return 0
    if name.startswith("_foreach_"):
        return _launches_of_foreach(args)
    if isinstance(result, Tensor) and not result.numel():
        return 0
    return 1


def _bytes_of(value: object) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, (list, tuple)):
        return sum(_bytes_of(one) for one in value)
    return 0


def _launches_of_foreach(args: tuple[Any, ...]) -> int:
    lists = 0
    for arg in args:
        if isinstance(arg, (list, tuple)) and isinstance(arg[0], Tensor):
            lists += 1
            # Tensors of other shapes take the slow path: a kernel each.
            if any(one.shape != first.shape for one, first in zip(arg, args[0], strict=True)):
                return len(arg)

    blocks: int = sum(math.ceil(tensor.numel() / _FOREACH_BLOCK) for tensor in args[0])
    by_tensors: int = math.ceil(len(args[0]) / _FOREACH_TENSORS[lists - 1])
    return max(by_tensors, math.ceil(blocks / _FOREACH_BLOCKS))


class Synchronisations:
    """Notes each place where the host would wait for a GPU, in this thread while it is entered.

    These are the reads of values (`.item()`, `float(…)`, `if tensor:`, `.tolist()`, `.cpu()` …),
    and operators whose result's size depends on values (`nonzero`, an index of truth values …). One
    read counts once, however many operators it takes.

    A CPU does not show which tensors would stay on the host. So a read of those counts as well,
    and a copy between devices that is no `.cpu()` does not.

    Attributes:
        places: Each wait in its order, as `path:line name`: the first line outside of PyTorch.
        thread: The one whose waits are noted.
    """

    def __init__(self) -> None:
        self.places: list[str] = []
        self.thread = 0
        self._modes = ExitStack()
        self._reading = False

    def __enter__(self) -> Synchronisations:
        self.thread = get_ident()
        for name in _READS:
            # Patched, since a `TorchFunctionMode` is off within `backward` and other functions
            # that know of such modes: a second pass would not be seen.
            self._modes.enter_context(patch.object(Tensor, name, _noting(self, name)))
        self._modes.enter_context(_DependentSizes(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._modes.close()

    def note(self, name: str) -> None:
        """Notes a wait here, unless it belongs to a read that is noted already."""
        if not self._reading:
            self.places.append(f"{_place()} {name}")

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Notes a read, and none of the waits within it."""
        self.note(name)
        outer = self._reading
        self._reading = True
        try:
            yield
        finally:
            self._reading = outer


def _noting(seen: Synchronisations, name: str) -> Function:
    """Returns a method of `Tensor` that notes each call of this thread."""
    method: Function = getattr(Tensor, name)

    def noting(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if get_ident() != seen.thread:
            return method(tensor, *args, **kwargs)
        with seen.reading(name):
            return method(tensor, *args, **kwargs)

    return noting


class _DependentSizes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, seen: Synchronisations) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = seen

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if _waits(func, args, given):
            self.seen.note(func.overloadpacket.__name__)
        return func(*args, **given)


def _waits(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operator must know values before its result's size or itself is known."""
    name = func.overloadpacket.__name__
    if name.startswith(("index", "_index_put")) and len(args) > 1 and isinstance(args[1], list):
        # PyTorch tags all of them; only truth values must be counted first.
        indices = [index for index in args[1] if index is not None]
        return any(index.dtype in (torch.bool, torch.uint8) for index in indices)
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    # `equal` gives a Python bool, and has no tag.
    return (
        name == "equal"
        or torch.Tag.data_dependent_output in func.tags
        or torch.Tag.dynamic_output_shape in func.tags
    )


def _place() -> str:
    """The innermost line that is neither PyTorch's nor in this file, as `path:line`."""
    frame = sys._getframe()
    while frame.f_back is not None:
        path = Path(frame.f_code.co_filename)
        inside = path.is_relative_to(_TORCH) or path == Path(__file__)
        # `contextlib` stands between this file's functions.
        if not inside and path.name != "contextlib.py":
            break
        frame = frame.f_back

    shown = "/".join(Path(frame.f_code.co_filename).parts[-2:])
    return f"{shown}:{frame.f_lineno}"
