"""What a run asks of its machine: open files, and cores that it shares with other programs."""

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

    libgomp's threads wait in a loop. If other programs use the cores, too, a thread waits for one
    that has none: the demo's steps take half the time by this where two other programs run on its
    two cores, and as long as before where none does. It must come before torch is imported, and
    leaves a choice of the user's as it is.
    """
    if not any(name in os.environ for name in _OWN_CHOICE):
        os.environ["GOMP_SPINCOUNT"] = str(_SPINS)
