"""The table of `benchmarks.loader`: a row for each case, number of workers and loader."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from benchmarks.shared.photos import CASES

LOADERS = ("ours", "open_clip", "plain")

PER_SECOND = "pairs_per_second"
PER_CPU_SECOND = "pairs_per_cpu_second"

HEADS = (
    "case",
    "loader",
    "workers",
    "pairs/s",
    "per CPU s",
    "first batch",
    "KiB/pair",
    "peak MiB",
    "ours/it",
    "by CPU",
    "of ceiling",
    "by CPU",
)

WORDS = 2  # columns of words; all others are numbers


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        case: One of `CASES`.
        loader: One of `LOADERS`, or `decode` for decoding alone.
        workers: The loader's workers; 0 for decoding alone.
    """

    case: str
    loader: str
    workers: int


Rounds = list[dict[str, float]]  # the figures of each round
Results = dict[Task, Rounds]


def table(results: Results) -> str:
    """Returns the table, sorted by case, workers and loader."""
    loaders = ["decode", *LOADERS]
    cases = list(CASES)

    def place(task: Task) -> tuple[int, int, int]:
        return cases.index(task.case), task.workers, loaders.index(task.loader)

    rows: list[tuple[str, ...]] = [HEADS]
    for task in sorted(results, key=place):
        rows.append(row_of(task, results))

    widths = []
    for column in range(len(HEADS)):
        widths.append(max(len(row[column]) for row in rows))
    return "\n".join(line(row, widths) for row in rows)


def row_of(task: Task, results: Results) -> tuple[str, ...]:
    """Returns the cells of a measurement's row."""
    rounds = results[task]
    speed = f"{middle(rounds, PER_SECOND):.0f}"
    speed_of_cpu = f"{middle(rounds, PER_CPU_SECOND):.0f}"
    if task.loader == "decode":
        unknown = ["-"] * (len(HEADS) - 5)
        return (task.case, "decode alone", "-", speed, speed_of_cpu, *unknown)

    columns = (
        task.case,
        task.loader,
        str(task.workers),
        speed,
        speed_of_cpu,
        f"{middle(rounds, 'first_batch_seconds'):.2f} s",
        f"{middle(rounds, 'bytes_per_pair') / 1024:.0f}",
        f"{middle(rounds, 'peak_bytes') / 2**20:.0f}",
    )
    if task.loader == "ours":
        ceiling = results[Task(task.case, "decode", 0)]
        share = ratio(rounds, ceiling, PER_SECOND) / task.workers
        # Not divided by the workers: CPU time has those of all processes in it already.
        share_of_cpu = ratio(rounds, ceiling, PER_CPU_SECOND)
        return (*columns, "-", "-", f"{share:.0%}", f"{share_of_cpu:.0%}")

    ours = results[Task(task.case, "ours", task.workers)]
    by_clock = ratio(ours, rounds, PER_SECOND)
    by_cpu = ratio(ours, rounds, PER_CPU_SECOND)
    return (*columns, f"{by_clock:.2f}", f"{by_cpu:.2f}", "-", "-")


def middle(rounds: Rounds, key: str) -> float:
    """Returns the median of a figure over the rounds."""
    return median(figures[key] for figures in rounds)


def ratio(above: Rounds, below: Rounds, key: str) -> float:
    """Returns the median over the rounds of above / below."""
    pairs = zip(above, below, strict=True)
    return median(one[key] / other[key] for one, other in pairs)


def line(row: tuple[str, ...], widths: list[int]) -> str:
    """Joins the cells of a row: words to the left, numbers to the right."""
    cells = []
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        cells.append(cell.ljust(width) if column < WORDS else cell.rjust(width))
    return "  ".join(cells).rstrip()
