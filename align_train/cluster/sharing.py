"""What one process reads for all of them.

A listing of 50,000 files, the texts of all held-out pairs, the counts of shards without a manifest
and a tokenizer on the hub are the same for all ranks. If 1,024 ranks ask for them, a file system or
the hub refuses. So rank 0 reads, and the others get it through the watchdog's store: no process
group exists yet. Without a watchdog, or with one process, each reads for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Sharer(Protocol):
    """Gives what rank 0 reads to all ranks: the watchdog."""

    def from_first(self, key: str, make: Callable[[], T]) -> T:
        """Called on all ranks; see `from_first` of this module."""
        ...

    def pass_done(self) -> None:
        """Notes progress."""
        ...


_sharer: Sharer | None = None


def use(sharer: Sharer | None) -> None:
    """Sets who shares in this process; None: nobody."""
    global _sharer
    _sharer = sharer


def from_first(key: str, make: Callable[[], T]) -> T:
    """Gives all ranks what rank 0 makes; they wait for it. Collective.

    Args:
        key: Names the thing; the same on all ranks.
        make: Makes it, of plain lists, dicts, texts and numbers; called on rank 0 only.

    Raises:
        UserError: What `make` raised on rank 0; without a text on the others.
    """
    return make() if _sharer is None else _sharer.from_first(key, make)


def note_progress() -> None:
    """Notes that what is being made gets on: the watchdog waits for it."""
    if _sharer is not None:
        _sharer.pass_done()
