"""A run's use of its machine: open files, and cores that it shares with other programs."""

from __future__ import annotations

import contextlib
import os
import resource

# Turns of the loop in which a thread waits; libgomp's own number is 300,000.
_SPINS = 3_000
_OWN_CHOICE = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def allow_open_files() -> None:
    """Raises the limit of open files to the hard one.

    Rank 0 keeps two stores with a connection to every rank: the usual limit of 1,024 files ends at
    some 500 ranks.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS refuses an infinite limit.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def wait_briefly() -> None:
    """Lets torch's threads give their cores back soon while they wait for each other.

    libgomp's threads wait in a loop, which keeps their cores busy. If other programs use the cores,
    too, the awaited thread may have no core. With two other programs on two cores, the demo's steps
    take half the time by this; without them, they take as long as before.

    It must be called before torch is imported. If the user has chosen how threads wait, it changes
    nothing.
    """
    if not any(name in os.environ for name in _OWN_CHOICE):
        os.environ["GOMP_SPINCOUNT"] = str(_SPINS)
