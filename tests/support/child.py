"""A function in a forked child process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

FORK = multiprocessing.get_context("fork")


def in_child(target: Callable[..., None], *arguments: object) -> int | None:
    """Runs a function in a child, and returns the child's exit status; None: it has not ended."""
    process = FORK.Process(target=target, args=arguments)
    process.start()
    process.join(timeout=30)
    return process.exitcode
