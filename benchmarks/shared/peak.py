"""The peak of memory that a piece of work takes, on the CPU or on a GPU; Linux only.

It imports torch and nothing of align_train: `benchmarks.loss.worker` runs in open_clip's
environment too.
"""

from __future__ import annotations

import torch

from benchmarks.shared.proc import reset_peak, status_bytes


class PeakAbove:
    """The peak above the memory that was in use when this object was made, in bytes."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            reset_peak()
            self.before = status_bytes("VmRSS")

    def peak(self) -> int:
        """Returns the peak so far."""
        if self.on_gpu:
            return torch.cuda.max_memory_allocated() - self.before
        return status_bytes("VmHWM") - self.before
