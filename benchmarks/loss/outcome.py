"""The figures of `benchmarks.loss`, as rows of its table and as verdicts on its targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

LARGE = 65_536  # the global batch that only ours is measured at

TARGET_BATCH = 16_384
TARGET_MEMORY = 1 / 25
TARGET_TIME = 0.65
TARGET_LARGE = 1.5e9  # bytes

# Column and width.
COLUMNS = {
    "processes": 9,
    "global batch": 12,
    "which": 9,
    "value": 8,
    "gradient": 8,
    "d temperature": 13,
    "seconds": 7,
    "CPU s": 6,
    "peak MB": 7,
    "MB sent": 7,
    "time": 5,
    "by CPU": 6,
    "memory": 7,
}

WHICH = ("ours", "open_clip")


@dataclass(frozen=True)
class Case:
    """One setting in which the losses are measured.

    Attributes:
        processes: The number of ranks.
        batch: The global batch.
        alone: Ours is measured without open_clip.
    """

    processes: int
    batch: int
    alone: bool = False

    @property
    def rounds(self) -> int:
        """The number of rounds; one round of a large batch takes minutes."""
        return 3 if self.batch <= 16_384 else 1


@dataclass
class Outcome:
    """The figures of a case.

    Attributes:
        rounds: The figures of each round, by loss.
        differences: Relative errors of the gradients of embeddings and of temperature; None:
            open_clip was not measured.
        reason: Why open_clip was not measured; None: it was.
    """

    rounds: dict[str, list[dict[str, float]]]
    differences: tuple[float, float] | None = None
    reason: str | None = None

    def figure(self, which: str, name: str) -> float:
        """Returns the median of a figure over the rounds."""
        return median(figures[name] for figures in self.rounds[which])

    def ratio(self, name: str) -> float | None:
        """Returns the median over the rounds of ours / open_clip; None: it was not measured."""
        if self.reason is not None:
            return None
        pairs = zip(self.rounds["ours"], self.rounds["open_clip"], strict=True)
        return median(ours[name] / theirs[name] for ours, theirs in pairs)


def rows(case: Case, outcome: Outcome) -> Iterator[str]:
    """Yields the two rows of a case."""
    for which in WHICH:
        head = (str(case.processes), f"{case.batch:,}", which)
        if which == "open_clip" and outcome.reason:
            yield f"{line(head)}   {outcome.reason}"
            continue

        # Errors and ratios stand in our row only.
        errors = ["", ""]
        ratios = ["", "", ""]
        if which == "ours" and outcome.differences:
            errors = [f"{error:.1e}" for error in outcome.differences]
            ratios = [
                f"{outcome.ratio('seconds') or 0.0:.2f}",
                f"{outcome.ratio('cpu_seconds') or 0.0:.2f}",
                part(outcome.ratio("peak") or 0.0),
            ]

        cells = (
            *head,
            f"{outcome.figure(which, 'value'):.5f}",
            *errors,
            f"{outcome.figure(which, 'seconds'):.2f}",
            f"{outcome.figure(which, 'cpu_seconds'):.1f}",
            f"{outcome.figure(which, 'peak') / 1e6:,.0f}",
            f"{outcome.figure(which, 'sent') / 1e6:.1f}",
            *ratios,
        )
        yield line(cells)


def line(cells: tuple[str, ...]) -> str:
    """Joins the cells of a row, which may end before the last column."""
    put = []
    for cell, (head, width) in zip(cells, COLUMNS.items(), strict=False):
        put.append(cell.ljust(width) if head == "which" else cell.rjust(width))
    return "  ".join(put).rstrip()


def part(ratio: float) -> str:
    """Writes a ratio as a part of one."""
    return f"1/{1 / ratio:.1f}"


def verdict(value: float | None, target: float, write: Callable[[float], str]) -> str:
    """Says whether a figure is at most its target; None: it was not measured."""
    if value is None:
        word = "not measured"
    else:
        word = f"{write(value)} {'ok' if value <= target else 'MISSED'}"
    return f"{word} (target {write(target)})"


def last_line(outcomes: dict[Case, Outcome]) -> str:
    """Returns the line of the figures that have a target."""
    compared = outcomes.get(Case(1, TARGET_BATCH))
    large = outcomes.get(Case(1, LARGE, alone=True))
    memory_ratio = compared.ratio("peak") if compared else None
    time_ratio = compared.ratio("seconds") if compared else None
    large_peak = large.rounds["ours"][0]["peak"] if large else None

    memory = verdict(memory_ratio, TARGET_MEMORY, part)
    time = verdict(time_ratio, TARGET_TIME, lambda ratio: f"{ratio:.2f}")
    peak = verdict(large_peak, TARGET_LARGE, lambda size: f"{size / 1e9:.2f} GB")
    return (
        f"in one process: at {TARGET_BATCH:,} memory {memory}, time {time} of open_clip's; "
        f"at {LARGE:,} above the inputs {peak}"
    )
