"""Errors of torch and of processes in the user's words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

import torch

from align_train.cluster.watchdog import Watchdog
from align_train.errors import UserError
from align_train.stream.workers import end_in_words, lost_worker
from align_train.training.out_of_memory import is_out_of_memory

# How gloo and NCCL say that a peer is gone. Both raise RuntimeError, so only the words tell.
_PEER_LEFT = (
    "NCCL",
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Timed out waiting",
)

# Passes of a step are made again, but not everything can be, see docs/chunks.md.
_MEMORY_OF_A_STEP = (
    " where the step cannot be made again; start anew with a smaller chunk_size, recompute=true or "
    "checkpoint_blocks=true, which change no number, or take more GPUs or a smaller batch_size"
)

_SHOWN = 100  # characters of torch's own message

# torch raises these wherever the run happens to be when a loader's process ends.
_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) ([^.]*)")
_STATUS = re.compile(r"exit code:? (\d+)")


@contextlib.contextmanager
def explaining(
    watchdog: Watchdog,
    refused: Callable[[Exception], UserError | None],
    *,
    memory: str = _MEMORY_OF_A_STEP,
) -> Iterator[None]:
    """Puts errors of training and evaluating in the user's words, if their cause is known.

    Args:
        watchdog: Knows which process is gone.
        refused: Explains an error of a checkpoint that does not load; None: it is not that.
        memory: What to do if the device's memory runs out; the end of an error's line.

    Yields:
        Once, around what is run.

    Raises:
        UserError: The explanation. Errors without one pass through, as defects of ours.
    """
    try:
        yield
    except UserError:
        raise
    except SystemExit as error:
        # Lightning turns a signal into an exit.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise
    except Exception as error:
        # torch, Lightning and zip files raise many kinds for what does not fit or is broken.
        if (known := _explained(error, watchdog, memory)) is not None:
            raise known from None
        if (known := refused(error)) is not None:
            raise known from error
        raise


def _explained(error: Exception, watchdog: Watchdog, memory: str) -> UserError | None:
    """What an error of torch's means to the user; None if that is not known."""
    text = " ".join(str(error).split())
    if is_out_of_memory(error):
        return UserError(f"out of memory ({text[:_SHOWN]}){memory}")

    if worker := _WORKER.search(text):
        status = _STATUS.search(text)
        how = end_in_words(int(status[1])) if status else worker[2].strip()
        return lost_worker(worker[1], how[:_SHOWN])

    peer_left = isinstance(error, RuntimeError) and any(words in text for words in _PEER_LEFT)
    if peer_left or isinstance(error, torch.distributed.DistError):
        return watchdog.explain(text)
    return None
