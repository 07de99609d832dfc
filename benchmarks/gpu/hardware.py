"""This machine in words, without torch: to ask it for a GPU takes memory on that GPU."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

_QUERY = "--query-gpu=name,driver_version,memory.total"
_PATIENCE = 20.0  # seconds


def host() -> str:
    """The cores that this process may use, and their kind."""
    return f"{len(os.sched_getaffinity(0))} cores ({_processor()})"


def gpus() -> str:
    """Name, driver and memory of each GPU; `?` without `nvidia-smi`, as in some containers."""
    command = ["nvidia-smi", _QUERY, "--format=csv,noheader"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "?"
    return "; ".join(done.stdout.splitlines()) or "?"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
