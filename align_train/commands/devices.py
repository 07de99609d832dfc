from __future__ import annotations

from typing import Any

import torch

from align_train.cluster import launcher
from align_train.errors import UserError


def device_of(name: str) -> torch.device:
    """Of processes that a launcher has started, each has its own of a machine's GPUs (or the only one that it may see).
    UserError where there is no such device."""
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("not cpu or cuda")
        started = launcher.current()
        if device == torch.device("cuda") and started.started_all:
            device = torch.device("cuda", started.local_rank % max(torch.cuda.device_count(), 1))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device={name}: not there ({str(error).splitlines()[0][:100]}); take device=cpu"
        ) from None
    return device


def check_loader(config: Any) -> None:
    """Of commands that encode pictures."""
    if not 1 <= config.chunk_size <= 1_000_000 or not 0 <= config.workers <= 1000:
        raise UserError(
            f"chunk_size={config.chunk_size}, workers={config.workers}: expected 1 to 1,000,000 rows, and 0 to 1,000 processes"
        )
