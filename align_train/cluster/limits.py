"""Limits of the operating system that a large run meets."""

from __future__ import annotations

import contextlib
import resource


def allow_open_files() -> None:
    """Raises the limit of open files to the hard one.

    Rank 0 keeps two stores with a connection to every rank: the usual limit of 1,024 files ends at
    some 500 ranks.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS refuses an infinite limit.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
