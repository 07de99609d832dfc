"""Runs one setup by the command of training, and sums up what its ranks have measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.plan.child import FOLDER
from benchmarks.plan.data import VOCABULARY
from benchmarks.plan.setups import STEPS, Setup
from benchmarks.shared.children import LONGEST_ERROR, REPOSITORY

# glibc returns freed memory at once: each larger block is mapped by itself.
AT_ONCE = {
    "MALLOC_MMAP_THRESHOLD_": str(64 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 1024),
    "MALLOC_MMAP_MAX_": "1000000",
    "MALLOC_ARENA_MAX": "2",
}
# A network of its own, in which nobody else sends.
ALONE = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
FIRST_COUNTED = 2  # bytes are counted from the end of this step on


def measure(setup: Setup, shards: Path, *, threads: int = 1) -> dict[str, Any]:
    """Trains once, and returns what was measured.

    Args:
        setup: The setup.
        shards: The folder of `make_shards`.
        threads: Of a rank. Memory and bytes do not depend on them; on busy cores they wait for each
            other.

    Raises:
        SystemExit: The run failed; the benchmark ends with its last words.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [
            *(ALONE if can_be_alone() else ()),
            sys.executable,
            "-m",
            "benchmarks.plan.child",
            *setup.overrides,
            f"data.shards={shards}",
            f"data.tokenizer={shards / VOCABULARY}",
            f"output_dir={folder}",
            "name=run",
        ]
        began = time.perf_counter()
        child = subprocess.run(
            command,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            env=os.environ | AT_ONCE | {"OMP_NUM_THREADS": str(threads), FOLDER: name},
        )
        if child.returncode != 0:
            raise SystemExit(f"{setup.name} failed:\n{child.stderr[-LONGEST_ERROR:]}")
        ranks = [
            json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(setup.ranks)
        ]
        figures = summed_up(setup, ranks)
        figures["wall_seconds"] = time.perf_counter() - began
        return figures


def can_be_alone() -> bool:
    """Whether this user may make a network namespace."""
    if not shutil.which("unshare") or not shutil.which("ip"):
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True).returncode == 0


def summed_up(setup: Setup, ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """One setup's figures: the worst rank, each rank, bytes of all ranks together."""
    each = []
    for rank in ranks:
        first, *later = rank["steps"]
        each.append(
            {
                "first_step_peak": _peak([first]),
                "peak": _peak(later),
                "phases": _phases(later),
                "first_step_phases": _phases([first]),
                "held": later[-1]["optimizer"]["held"],
                "build": rank["build"],
                "parts": rank["parts"],
                "baseline": rank["baseline"],
                "modules": rank["modules"],
            }
        )

    sent = ranks[0]["loopback"]
    steps = STEPS - FIRST_COUNTED
    idle = sent["begin, idle after"]["bytes"] - sent["begin"]["bytes"]
    # The first idle time lies between the two readings.
    seconds = [step["seconds"] for step in ranks[0]["steps"][1:]]
    pairs = sum(rank["steps"][0]["pairs"] for rank in ranks)
    return {
        "overrides": setup.overrides,
        "model": setup.model,
        "engine": setup.engine,
        "ranks": setup.ranks,
        "chunk": setup.chunk,
        "pairs": pairs,
        "tokens": sorted({step["tokens"] for rank in ranks for step in rank["steps"]}),
        "peak": max(rank["peak"] for rank in each),
        "first_step_peak": max(rank["first_step_peak"] for rank in each),
        "bytes_per_step": (sent["end"]["bytes"] - sent["begin"]["bytes"] - idle) / steps,
        "packets_per_step": (sent["end"]["packets"] - sent["begin"]["packets"]) / steps,
        "idle_bytes": idle,
        "step_seconds": median(seconds),
        "pairs_per_second": pairs / median(seconds),
        "alone": can_be_alone(),
        "each": each,
    }


PHASES = ("wait", "forward", "backward", "optimizer")


def _phases(steps: list[dict[str, Any]]) -> dict[str, int]:
    return {name: max(step[name]["private_peak"] for step in steps) for name in PHASES}


def _peak(steps: list[dict[str, Any]]) -> int:
    return max(_phases(steps).values())
