from __future__ import annotations

import torch

from align_train.cluster.watchdog import Watchdog
from align_train.errors import Lost, UserError

# How gloo says that the other side is gone; what it raises is a plain RuntimeError.
_PEER_LEFT = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Timed out waiting",
)


def explained(error: Exception, watchdog: Watchdog) -> UserError | None:
    """What an error of torch's means to the user, where that is known."""
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError):
        return UserError(
            f"out of GPU memory ({text[:100]}); lower chunk_size's share of it with recompute=true or checkpoint_blocks=true, "
            f"which change no number, or take a smaller chunk_size, or more GPUs"
        )
    if (
        "DataLoader worker (pid" in text
    ):  # raised by torch wherever the run happens to be when a worker dies
        return Lost(
            f"a loader process ended by itself ({text[:100]}); if it was killed for memory, lower data.workers; the same "
            f"command goes on from the last checkpoint"
        )
    left = isinstance(error, RuntimeError) and any(words in text for words in _PEER_LEFT)
    return (
        watchdog.explain(text) if left or isinstance(error, torch.distributed.DistError) else None
    )
