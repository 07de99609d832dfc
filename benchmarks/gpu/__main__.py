"""All that a GPU must show, in one command: on the device, bounded in time, told in tables.

    python -m benchmarks.gpu [--minutes 8] [--only PART,…] [--output FOLDER]

The parts, in the order of their worth: *machine* (its ceilings), *runs* (short trainings by the
command: precisions, gradient caching, compiler, strategies, resume), *towers* (pairs/s of whole
steps beside Hugging Face's model in a plain loop, and open_clip's if it is installed), *parity*
(loss and chunks on the device against float64 on the CPU), *loss* (beside the plain one), *kernels*
(those that take most of a step), *data* (from JPEG shards to steps) and *demo* (with its accuracy).

Each part has a share of the minutes, and what one part leaves goes to the next. Rows are measured
in processes of their own: one that crashes, hangs or runs out of memory is told in one line, with
its last words, and passed over. After each row, FOLDER/PART.json and FOLDER/gpu.md hold all that is
known.

Aims, on one H100: B7 + BERT-base >= 700 pairs/s and >= 2 x Hugging Face's loop; B3 >= 1,500;
ViT-B/32 >= 3,000 and B/16 >= 1,300; the loss of 65k pairs in <= 0.5 x the plain one's time with
<= 1/30 of its memory; less than 2 % of the time spent waiting for data.

`--device cpu --tiny` runs every part with small sizes, for tests. Price: --minutes.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from threading import Lock, Thread

from benchmarks.gpu.bounded import Child, Outcome
from benchmarks.gpu.parts import SHARES, Figures, Options, part_of
from benchmarks.gpu.report import Outcomes, Report, status_of
from benchmarks.shared.children import REPOSITORY
from benchmarks.shared.command_line import parser_of

FOLDER = REPOSITORY / "outputs" / "benchmarks" / "gpu"
MINUTE = 60.0  # seconds
LEAST = 3.0  # seconds: with less left, no row is begun

Known = dict[str, dict[str, Figures]]


class PartRun:
    """One part, row by row until its time is over."""

    def __init__(self, name: str, options: Options, report: Report, seconds: float) -> None:
        """Starts nothing yet.

        Args:
            name: The name of the part.
            options: How it is measured.
            report: Takes the outcomes.
            seconds: The time that it has.
        """
        self.name = name
        self.part = part_of(name)
        self.options = options
        self.report = report
        self.started = time.monotonic()
        self.deadline = self.started + seconds
        self.at_once = self.part.AT_ONCE if options.on_gpu else 1
        # Other work may share a CPU, and tests want an outcome.
        self.limit = self.part.LIMIT if options.on_gpu else seconds

        rows = self.part.rows(options)
        self.outcomes: Outcomes = {row: Outcome("no time") for row in rows}
        self._waiting = deque(rows)
        self._lock = Lock()
        self._children = 0

    def run(self) -> Outcomes:
        """Measures all rows for which there is time."""
        # Alone: what the first row writes, such as data, serves the others.
        self._take_rows(most=1)
        threads: list[Thread] = []
        for _ in range(self.at_once):
            threads.append(Thread(target=self._take_rows, daemon=True))
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            # Were this process to end here, no thread should begin another row.
            self._waiting.clear()

        print(f"\n{self._write()}\n", flush=True)
        return self.outcomes

    def _take_rows(self, most: int | None = None) -> None:
        """Measures rows until none waits, by one process after another."""
        child: Child | None = None
        taken = 0
        while taken != most and (row := self._next()):
            taken += 1
            child = child or self._new_child()
            seconds = min(self.limit, self.deadline - time.monotonic())
            self._note(row, child.ask(row, self._known(), seconds))
            if child.ended:
                child = None
            if most and self.at_once == 1 and child:
                # Nobody else will take rows: this process goes on with the others.
                most = None
        if child:
            child.end()

    def _new_child(self) -> Child:
        with self._lock:
            self._children += 1
            log = self.options.folder / f"{self.name}-{self._children}.log"
        log.unlink(missing_ok=True)
        return Child(self.name, replace(self.options, log=log))

    def _next(self) -> str | None:
        with self._lock:
            if not self._waiting or self.deadline - time.monotonic() < LEAST:
                return None
            return self._waiting.popleft()

    def _known(self) -> Known:
        """What is known by now; other threads go on adding to it."""
        with self._lock:
            return {part: dict(rows) for part, rows in self.options.known.items()}

    def _note(self, row: str, outcome: Outcome) -> None:
        with self._lock:
            self.outcomes[row] = outcome
            if outcome.figures:
                self.options.known.setdefault(self.name, {})[row] = outcome.figures
            told = f"  {outcome.error}" if outcome.error else ""
            print(f"  {row}: {outcome.status}, {outcome.seconds:.0f} s{told}", flush=True)
            self._write()

    def _write(self) -> str:
        seconds = time.monotonic() - self.started
        return self.report.write(self.name, self.part, self.outcomes, seconds)


def measure(names: list[str], options: Options, minutes: float) -> dict[str, str]:
    """Measures parts within a time.

    Args:
        names: The parts, in the order of `SHARES`.
        options: How they are measured.
        minutes: For all of them.

    Returns:
        The status of each part.
    """
    report = Report(options.folder, options.device)
    end = time.monotonic() + minutes * MINUTE
    statuses = {}
    for index, name in enumerate(names):
        shares = [SHARES[later] for later in names[index:]]
        seconds = max(0.0, end - time.monotonic()) * shares[0] / sum(shares)
        print(f"## {name} ({seconds:.0f} s at most)", flush=True)
        statuses[name] = status_of(PartRun(name, options, report, seconds).run())
    return statuses


def parts_of(only: str) -> list[str]:
    """The parts that `--only` names, in the order of their worth; all if it is empty."""
    asked = [name for name in only.split(",") if name]
    for name in asked:
        if name not in SHARES:
            raise SystemExit(f"--only {only}: no part {name}; there are {', '.join(SHARES)}")
    return [name for name in SHARES if name in asked or not asked]


def check_device(device: str) -> None:
    """Ends the benchmark in one line if there is no GPU."""
    if device == "cpu":
        return
    # Here: `--help` must not wait for it.
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no GPU here; --device cpu --tiny runs without")


def arguments() -> argparse.Namespace:
    parser = parser_of("gpu", __doc__)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", default="", help="parts, with commas")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, few steps")
    parser.add_argument("--output", type=Path, default=FOLDER)
    return parser.parse_args()


def main() -> None:
    # So that the processes of rows are ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    given = arguments()
    names = parts_of(given.only)
    check_device(given.device)
    if given.device == "cpu" and not given.tiny:
        raise SystemExit("--device cpu: the real sizes take days there; add --tiny")

    folder = given.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    options = Options(device=given.device, tiny=given.tiny, folder=folder, log=folder / "gpu.log")
    statuses = measure(names, options, given.minutes)

    told = ", ".join(f"{name} {status}" for name, status in statuses.items())
    print(f"{told}; tables: {folder / 'gpu.md'}")


if __name__ == "__main__":
    main()
