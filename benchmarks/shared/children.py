"""A measurement in a Python process of its own, which nothing before it has warmed or filled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]


def printed(module: str, *arguments: str, **environment: str) -> str:
    """What `python -m module arguments …` prints; the benchmark ends where it fails."""
    command = [sys.executable, "-m", module, *arguments]
    child = subprocess.run(
        command, cwd=TOP, capture_output=True, text=True, env=os.environ | environment
    )
    if child.returncode != 0:
        raise SystemExit(
            f"{' '.join(command[1:])} failed with {child.returncode}:\n{child.stderr[-3000:]}"
        )
    return child.stdout
