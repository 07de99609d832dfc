"""How a process ends: at once, if other ranks may wait for it."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def end(status: int) -> NoReturn:
    """Exits. Whoever calls it has printed why.

    Python's clean-up would end the process group. NCCL waits there for the other ranks, and they
    wait for this one in a collective. So with other ranks there is no clean-up.

    Args:
        status: The exit status.
    """
    if has_peers():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def has_peers() -> bool:
    """Whether this process is one of several in a process group."""
    # Commands with wrong settings end before torch is imported.
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return False
    return bool(distributed.get_world_size() > 1)
