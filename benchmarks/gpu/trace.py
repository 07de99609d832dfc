"""What one step asked of the device: its kernels by time, launches, waits, and how long it idled.

On a GPU PyTorch's profiler records the kernels. Their own time hardly changes under it, but the
host's does: so the step's seconds are those of steps without it. On a CPU the same step is counted
by `benchmarks.shared.dispatch`: operators take the place of kernels, and nothing says how long the
device would idle.
"""

from __future__ import annotations

import json
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.clock import wait_for
from benchmarks.gpu.parts import Figures
from benchmarks.shared.dispatch import Operators

SHOWN = 20  # kernels
LONGEST_NAME = 90  # characters

# Not the CPU's: to note each operator would slow the host, and so let the device idle.
_ACTIVITIES = [torch.profiler.ProfilerActivity.CUDA]
_MICROSECONDS = 1e6  # in a second
_KERNELS = {"kernel"}
_WORK = {"kernel", "gpu_memcpy", "gpu_memset"}
# Reads of values. The profiler itself waits for the whole device, which no step does.
_WAITS = {"cudaStreamSynchronize", "cudaEventSynchronize"}


@dataclass
class Trace:
    """What was seen of one step.

    Attributes:
        launches: Kernels by name.
        seconds: Their time by name; empty on a CPU.
        busy: Seconds in which the device did anything; None on a CPU.
        waits: How often the host waited for the device; None on a CPU.
    """

    launches: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    busy: float | None = None
    waits: int | None = None

    def figures(self, step_seconds: float) -> Figures:
        """The figures of a row.

        Args:
            step_seconds: Of a step that nobody traced.
        """
        total = self.launches.total()
        idle = None
        if self.busy is not None and total:
            idle = max(0.0, 1 - self.busy / step_seconds)
        return {"launches": total or None, "waits": self.waits, "idle": idle}

    def table(self) -> list[list[str]]:
        """The kernels that take most of the time, or on a CPU those that are most."""
        order: Counter[Any] = self.seconds or self.launches
        whole = sum(order.values())
        lines = [["kernel", "launches", "ms", "share"]]
        for name, amount in order.most_common(SHOWN):
            milliseconds = f"{self.seconds[name] * 1e3:.2f}" if self.seconds else "–"
            # A bar would end the cell of a table, and a page take `<4>` for a tag.
            shown = f"`{name.replace('|', '/')[:LONGEST_NAME]}`"
            lines.append([shown, str(self.launches[name]), milliseconds, f"{amount / whole:.1%}"])
        return lines


class Tracer:
    """Traces what happens between `start` and `stop`, which may lie in different functions."""

    def __init__(self, device: str) -> None:
        """Traces nothing yet.

        Args:
            device: `cuda` or `cpu`.
        """
        self.device = device
        self._profiler: torch.profiler.profile | None = None
        self._operators = Operators()

    def start(self) -> None:
        """Begins, when the device has done all that came before."""
        if self.device == "cpu":
            self._operators.__enter__()  # type: ignore[no-untyped-call]
            return

        wait_for(self.device)
        with _without_profiler():
            profiler = torch.profiler.profile(activities=_ACTIVITIES)
            profiler.start()
            self._profiler = profiler

    def stop(self) -> Trace:
        """Ends, when the device has done all that it was given."""
        if self.device == "cpu":
            self._operators.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            launches: Counter[str] = Counter()
            for tally in self._operators.parts.values():
                launches += tally.operators
            return Trace(launches)

        wait_for(self.device)
        if self._profiler is not None:
            with _without_profiler(), tempfile.TemporaryDirectory() as folder:
                self._profiler.stop()
                path = Path(folder) / "trace.json"
                self._profiler.export_chrome_trace(str(path))
                return trace_of(json.loads(path.read_text(errors="replace"))["traceEvents"])
        return Trace()


@contextmanager
def _without_profiler() -> Iterator[None]:
    """Goes on if the profiler fails: what the clock has measured must not be lost."""
    try:
        yield
    except (RuntimeError, AssertionError, ValueError, OSError):
        traceback.print_exc()


@contextmanager
def traced(device: str) -> Iterator[list[Trace]]:
    """Traces what is within; the list has the trace afterwards."""
    found: list[Trace] = []
    tracer = Tracer(device)
    tracer.start()
    yield found
    found.append(tracer.stop())


def trace_of(events: Sequence[dict[str, Any]]) -> Trace:
    """Reads the events of a Chrome trace, as the profiler writes them.

    Args:
        events: `traceEvents`: dicts with `cat`, `name`, `ts` and `dur`, the last two in µs.
    """
    trace = Trace(waits=0)
    assert trace.waits is not None
    spans: list[tuple[float, float]] = []
    for event in events:
        category = event.get("cat")
        name = str(event.get("name"))
        duration = float(event.get("dur", 0.0))
        if category in _WORK:
            start = float(event["ts"])
            spans.append((start, start + duration))
        if category in _KERNELS:
            trace.launches[name] += 1
            trace.seconds[name] += duration / _MICROSECONDS  # type: ignore[assignment]
        if name in _WAITS:
            trace.waits += 1

    trace.busy = _covered(spans) / _MICROSECONDS
    return trace


def _covered(spans: list[tuple[float, float]]) -> float:
    """How long at least one of the spans lasts."""
    covered = 0.0
    until = float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered
