"""Seconds of work on a device, which the host only starts."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

GIGA = 1e9
TERA = 1e12


def wait_for(device: str) -> None:
    """Waits until a device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object], device: str, *, rounds: int, times: int = 1) -> float:
    """The median of the seconds of one call; a first one is not counted.

    Args:
        work: What is measured.
        device: `cuda` or `cpu`.
        rounds: How often the clock is read.
        times: Calls between two readings.
    """
    work()
    seconds = []
    for _ in range(rounds):
        wait_for(device)
        started = time.perf_counter()
        for _ in range(times):
            work()
        wait_for(device)
        seconds.append((time.perf_counter() - started) / times)
    return median(seconds)
