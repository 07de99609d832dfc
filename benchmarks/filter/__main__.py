"""The filter with every rule on generated tables in COYO-700M's columns, against merely scanning the columns that it reads.

    python -m benchmarks.filter [--rows 1000000 5000000 20000000] [--folder FOLDER] [--memory 4]

Each size in a process of its own, with two threads and `memory_gb=4`: rows a second; the same for DuckDB's sum over the same
columns of the same files, before and after; the process's peak of memory, and of what it spilled to disk. The number of
frequent tokens grows with the table (six for ten rows), so that the rule of rare tokens has as much to do in each. 100,000
evaluation hashes are looked for, of which one row in 2,000 has a near-duplicate.

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
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from benchmarks.shared.children import TOP, printed
from benchmarks.shared.crawl_table import write_table
from data.filter.hashes import hexadecimal

EVALUATION = 100_000


_SCAN = "SELECT sum(strlen(url)), sum(strlen(text)), sum(width), sum(height), sum(nsfw_score_opennsfw2), max(image_phash) FROM '{}'"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 5_000_000, 20_000_000])
    parser.add_argument("--memory", type=float, default=4.0, help="memory_gb of the filter")
    parser.add_argument(
        "--folder", type=Path, help="where tables are written; kept, and used again"
    )
    parser.add_argument("--scan", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.scan:
        print(scan(arguments.scan))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        print(
            "| rows | scan, s | filter, s | rows/s | of the scan's | memory, GB | spilled, GB | kept |"
        )
        print("|--:|--:|--:|--:|--:|--:|--:|--:|")
        for rows in arguments.rows:
            print(measured(rows, folder, Path(temporary), arguments.memory), flush=True)


def measured(rows: int, folder: Path, temporary: Path, memory: float) -> str:
    hashes = np.random.default_rng(1).integers(0, 2**64, EVALUATION, dtype=np.uint64)
    table = folder / f"rows_{rows}"
    if not table.exists():
        write_table(table, rows, evaluation=hashes)
    evaluation = temporary / "evaluation.parquet"
    parquet.write_table(pa.table({"image_phash": hexadecimal(hashes, 16)}), evaluation)
    glob = str(table / "*.parquet")
    before = float(printed("benchmarks.filter", "--scan", glob))
    seconds, peak, spilled, report = filtered(
        table, temporary / f"out_{rows}", evaluation, rows, memory
    )
    after = float(printed("benchmarks.filter", "--scan", glob))
    least = min(before, after)
    return (
        f"| {rows:,} | {least:.2f} | {seconds:.1f} | {rows / seconds:,.0f} | 1/{seconds / least:.0f} "
        f"| {peak / 1e9:.2f} | {spilled / 1e9:.2f} | {report['kept_share']:.1%} |"
    )


def scan(glob: str) -> float:
    """Seconds that DuckDB takes to read the columns, from a warm page cache."""
    import duckdb

    duckdb.execute("SET threads = 2")
    duckdb.execute(_SCAN.format(glob)).fetchall()
    began = time.perf_counter()
    duckdb.execute(_SCAN.format(glob)).fetchall()
    return time.perf_counter() - began


def filtered(
    table: Path, to: Path, evaluation: Path, rows: int, memory: float
) -> tuple[float, int, int, dict[str, float]]:
    """Seconds, peak bytes of memory and of disk, and the report of one filter command."""
    command = [
        sys.executable,
        "-m",
        "data.filter",
        f"source={table}",
        f"to={to}",
        "threads=2",
        f"memory_gb={memory}",
    ]
    command += [f"rules.rare_tokens={rows * 6 // 10}", f"rules.near_duplicates.of={evaluation}"]
    work = to.with_name(f".{to.name}.partial") / "work"
    spilled = 0
    began = time.perf_counter()
    with (to.parent / "filter.log").open("w") as log:
        child = subprocess.Popen(command, cwd=TOP, stdout=log, stderr=subprocess.STDOUT)
        while True:
            found, status, usage = os.wait4(child.pid, os.WNOHANG)
            if found:
                break
            spilled = max(spilled, sum(_size(path) for path in work.glob("spill-*/*")))
            time.sleep(0.1)
    if status:
        raise SystemExit((to.parent / "filter.log").read_text()[-3000:])
    return (
        time.perf_counter() - began,
        usage.ru_maxrss * 1024,
        spilled,
        json.loads((to / "report.json").read_text()),
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


if __name__ == "__main__":
    main()
