"""The kernels that take most of a B7 step, eager and compiled, and how long the device idles.

On a CPU they are the operators that are dispatched most often.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.gpu.parts import Columns, Figures, Options
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.towers import COMPILED, setup_of

TITLE = "what takes the time of a step of b7_base"
COLUMNS: Columns = {
    "pairs": ("batch", "d"),
    "chunk": ("chunk", "d"),
    "recompute": ("recompute", str),
    "step_seconds": ("s a step", ".3f"),
    "launches": ("launches", ",d"),
    "waits": ("waits", "d"),
    "idle": ("device idles", ".0%"),
}
AT_ONCE = 1
LIMIT = 120.0

EAGER = "b7_base"


def rows(options: Options) -> list[str]:
    # A compiled step cannot be counted on a CPU.
    return [EAGER] if options.tiny else [EAGER, EAGER + COMPILED]


def measure(row: str, options: Options) -> Figures:
    from benchmarks.gpu.step import measured

    found, trace = measured(_setup(row, options), options)
    return found | {"tables": {"one step": trace.table()}}


def _setup(row: str, options: Options) -> Setup:
    """As `towers` has measured it, or here the eager row before the compiled one."""
    setup = setup_of(row, options)
    for part in ("towers", "kernels"):
        if eager := options.known.get(part, {}).get(EAGER):
            return replace(setup, chunk=eager["chunk"], recompute=eager["recompute"])
    return setup
