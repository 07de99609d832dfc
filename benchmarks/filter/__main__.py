"""The filter with every rule, against merely scanning the columns that it reads.

    python -m benchmarks.filter [--rows 1000000 5000000 20000000] [--folder FOLDER] [--memory 4]

It works on generated tables in COYO-700M's columns. Each size has a process of its own, with two
threads and `memory_gb=4`. The table shows rows a second; the time of DuckDB's sum over the same
columns of the same files, the faster one of before and after; the process's peak of memory, and of
the disk that it spilled to.

The number of frequent tokens grows with the table (six for ten rows), so that the rule of rare
tokens has as much to do in each. The filter looks for 100,000 evaluation hashes, of which one row
in 2,000 has a near-duplicate.

Price: six minutes on two cores, 12 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from benchmarks.shared.children import LONGEST_ERROR, REPOSITORY, output_of
from benchmarks.shared.command_line import parser_of
from benchmarks.shared.crawl_table import write_table
from data.filter.hashes import hexadecimal

EVALUATION = 100_000  # hashes
THREADS = 2
LOOK_EVERY = 0.1  # seconds between two looks at the spilled files

_SCAN = """
SELECT sum(strlen(url)), sum(strlen(text)), sum(width), sum(height), sum(nsfw_score_opennsfw2),
       max(image_phash)
FROM '{}'
"""

HEADER = """\
| rows | scan, s | filter, s | rows/s | of the scan's | memory, GB | spilled, GB | kept |
|--:|--:|--:|--:|--:|--:|--:|--:|"""


@dataclass(frozen=True)
class Filtered:
    """The figures of one filter command.

    Attributes:
        seconds: Its time.
        peak: The most memory of its process in bytes.
        spilled: The most disk that it spilled to in bytes.
        kept_share: The share of rows that it kept.
    """

    seconds: float
    peak: int
    spilled: int
    kept_share: float


def main() -> None:
    parser = parser_of("filter", __doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 5_000_000, 20_000_000])
    parser.add_argument("--memory", type=float, default=4.0, help="memory_gb of the filter")
    parser.add_argument("--folder", type=Path, help="for tables, which are kept and used again")
    # A child of this benchmark: it prints the seconds of a scan.
    parser.add_argument("--scan", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.scan:
        print(scan(options.scan))
        return

    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        print(HEADER)
        for rows in options.rows:
            print(measured(rows, folder, Path(temporary), options.memory), flush=True)


def measured(rows: int, folder: Path, temporary: Path, memory: float) -> str:
    """Measures scan and filter on a table of one size, and returns a row of figures.

    Args:
        rows: Rows of the table.
        folder: The folder of the tables; a table that it holds already is used again.
        temporary: A folder for everything else.
        memory: The filter's `memory_gb`.
    """
    hashes = np.random.default_rng(1).integers(0, 2**64, EVALUATION, dtype=np.uint64)
    table = folder / f"rows_{rows}"
    if not table.exists():
        write_table(table, rows, evaluation=hashes)
    evaluation = temporary / "evaluation.parquet"
    parquet.write_table(pa.table({"image_phash": hexadecimal(hashes, 16)}), evaluation)

    # Before and after, since a neighbour may disturb either.
    glob = str(table / "*.parquet")
    before = float(output_of("benchmarks.filter", "--scan", glob))
    figures = filtered(table, temporary / f"out_{rows}", evaluation, rows, memory)
    after = float(output_of("benchmarks.filter", "--scan", glob))
    least = min(before, after)

    seconds = figures.seconds
    return (
        f"| {rows:,} | {least:.2f} | {seconds:.1f} | {rows / seconds:,.0f} "
        f"| 1/{seconds / least:.0f} | {figures.peak / 1e9:.2f} | {figures.spilled / 1e9:.2f} "
        f"| {figures.kept_share:.1%} |"
    )


def scan(glob: str) -> float:
    """Returns the seconds that DuckDB takes to read the columns, from a warm page cache."""
    import duckdb

    duckdb.execute(f"SET threads = {THREADS}")
    duckdb.execute(_SCAN.format(glob)).fetchall()
    began = time.perf_counter()
    duckdb.execute(_SCAN.format(glob)).fetchall()
    return time.perf_counter() - began


def filtered(table: Path, to: Path, evaluation: Path, rows: int, memory: float) -> Filtered:
    """Runs one filter command and watches it.

    Args:
        table: The table that is filtered.
        to: The folder of the result.
        evaluation: A table of the evaluation hashes.
        rows: Rows of the table.
        memory: The filter's `memory_gb`.

    Raises:
        SystemExit: The command failed.
    """
    command = [
        sys.executable,
        "-m",
        "data.filter",
        f"source={table}",
        f"to={to}",
        f"threads={THREADS}",
        f"memory_gb={memory}",
        f"rules.rare_tokens={rows * 6 // 10}",
        f"rules.near_duplicates.of={evaluation}",
    ]
    log_path = to.parent / "filter.log"
    work = to.with_name(f".{to.name}.partial") / "work"
    spilled = 0

    began = time.perf_counter()
    with log_path.open("w") as log:
        child = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT)
        while True:
            # wait4 and not poll(): it returns the child's peak of memory as well.
            ended, status, usage = os.wait4(child.pid, os.WNOHANG)
            if ended:
                break
            spilled = max(spilled, sum(_size(path) for path in work.glob("spill-*/*")))
            time.sleep(LOOK_EVERY)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(log_path.read_text()[-LONGEST_ERROR:])

    report = json.loads((to / "report.json").read_text())
    return Filtered(
        seconds=seconds,
        peak=usage.ru_maxrss * 1024,
        spilled=spilled,
        kept_share=report["kept_share"],
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # the filter has deleted it meanwhile
        return 0


if __name__ == "__main__":
    main()
