"""The parts of the benchmark: what each is made of, and what its rows report.

A part is a module with the names below. It measures one row at a time, in a process that
`child.py` runs, so that the end of that process costs one row and not the benchmark.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

Figures = dict[str, Any]  # of a row, as JSON; `ok: False` marks a row that misses its bound

# How a figure is shown, by its name. A format is a `str.format` specification, or a function.
Columns = Mapping[str, tuple[str, str | Callable[[Any], str]]]


@dataclass(frozen=True)
class Options:
    """How a part is measured.

    Attributes:
        device: `cuda` or `cpu`.
        tiny: Whether small sizes and few steps take the place of the real ones.
        folder: An absolute path, where runs and data may be written.
        log: Takes the output of the process that measures.
        known: The figures that rows have reported until now, by part and row.
    """

    device: str
    tiny: bool
    folder: Path
    log: Path
    known: dict[str, dict[str, Figures]] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is measured."""
        return self.device == "cuda"


class Part(Protocol):
    """A module of this folder.

    Attributes:
        TITLE: One line above its table.
        COLUMNS: Its figures: name -> heading and format.
        AT_ONCE: How many rows may run at a time on a GPU, once the first one has run.
        LIMIT: Seconds that one row may take on a GPU.
    """

    TITLE: str
    COLUMNS: Columns
    AT_ONCE: int
    LIMIT: float

    def rows(self, options: Options) -> list[str]:
        """The names of its rows, the most important first."""

    def measure(self, row: str, options: Options) -> Figures:
        """Measures one row."""


# In the order of their worth, with their share of the time.
SHARES = {
    "machine": 0.04,
    "runs": 0.17,
    "towers": 0.38,
    "parity": 0.05,
    "loss": 0.06,
    "kernels": 0.10,
    "data": 0.10,
    "demo": 0.10,
}


def part_of(name: str) -> Part:
    """Imports a part of this folder, or of a dotted name."""
    path = name if "." in name else f"benchmarks.gpu.{name}"
    return cast(Part, importlib.import_module(path))
