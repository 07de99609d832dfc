"""The device that a command computes on, and the loader that feeds it."""

from __future__ import annotations

import torch

from align_train.cluster import launcher
from align_train.commands.torch_flags import set_torch_flags
from align_train.config.schema import EmbedSettings, EvaluateSettings
from align_train.errors import UserError

# Far beyond any machine: they catch typing errors before something overflows.
_MOST_ROWS = 1_000_000
_MOST_WORKERS = 1000

_QUOTED = 100  # characters of torch's reason that an error quotes


def device_of(name: str) -> torch.device:
    """Finds the device of this process, and makes torch's global choices before it is used.

    Each process that a launcher started has its own GPU of the machine, or the only one that it
    may see.

    Args:
        name: `cpu`, `cuda` or `cuda:N`.

    Returns:
        The device.

    Raises:
        UserError: There is none of that name.
    """
    set_torch_flags()
    # torch itself says whether a device works; a list of names would not know.
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("not cpu or cuda")
        started = launcher.current()
        if device == torch.device("cuda") and started.started_all:
            # Slurm may show each task its own GPU only: then all of them are number 0.
            count = max(torch.cuda.device_count(), 1)
            device = torch.device("cuda", started.local_rank % count)
        # A name can be right without a GPU behind it: an allocation fails then.
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:_QUOTED]
        raise UserError(f"device={name}: not there ({reason}); take device=cpu") from None
    return device


def check_loader(settings: EmbedSettings | EvaluateSettings) -> None:
    """Checks the loader of a command that embeds images.

    Args:
        settings: The command's settings.

    Raises:
        UserError: The chunk size or the number of workers is out of bounds.
    """
    chunk_size = settings.chunk_size
    workers = settings.workers
    if not 1 <= chunk_size <= _MOST_ROWS or not 0 <= workers <= _MOST_WORKERS:
        raise UserError(
            f"chunk_size={chunk_size}, workers={workers}: "
            f"expected 1 to {_MOST_ROWS:,} rows, and 0 to {_MOST_WORKERS:,} processes"
        )
