"""Which of PyTorch's operators a function calls."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils._python_dispatch import TorchDispatchMode

# Of a value that the host waits for.
VALUE_ON_HOST = "aten._local_scalar_dense.default"


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The names of all operators inside `with`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def operators(function: Callable[[], object]) -> list[str]:
    """The names of the operators of a call, in their order."""
    seen = _Operators()
    with seen:
        function()
    return seen.names
