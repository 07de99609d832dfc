"""A measurement in a Python process of its own, which nothing before it has warmed or filled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
LONGEST_ERROR = 3000  # characters of a child's last words


def output_of(module: str, *arguments: str, **environment: str) -> str:
    """Runs `python -m module arguments …` and returns its standard output.

    Args:
        module: The module that the child runs.
        *arguments: Its command line.
        **environment: Variables on top of ours.

    Raises:
        SystemExit: The child failed; the benchmark ends with its last words.
    """
    command = [sys.executable, "-m", module, *arguments]
    child = subprocess.run(
        command,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )

    if child.returncode != 0:
        shown = " ".join(command[1:])
        last_words = child.stderr[-LONGEST_ERROR:]
        raise SystemExit(f"{shown} failed with {child.returncode}:\n{last_words}")
    return child.stdout


def json_of(module: str, *arguments: str, **environment: str) -> Any:
    """Runs a module as `output_of` does, and reads the last line of its output as JSON."""
    # Libraries print lines of their own before it.
    last_line = output_of(module, *arguments, **environment).splitlines()[-1]
    return json.loads(last_line)
