"""What a run's data costs in memory: opening a manifest of 75,000 shards, and loader workers over 20 epochs.

    python -m benchmarks.memory [--only open|workers]

*Open*: a manifest of 75,000 shards (no tars behind it) with 700 M pairs, of which a selection keeps half. A fresh process that
imports only what it needs resolves it, builds the order and asks for random steps. Growth is of the resident set, from after
the imports; the peak is the highest that the process ever had. Steps are drawn from 20 epochs, so that most meet an epoch for
the first time; in the very first, NumPy imports a module of its own. Targets: open in 5 s and 300 MB; a step of 16,384 pairs
in 10 ms of CPU time (65,536: 40).

*Workers*: a loader with two workers over 1,000 real pairs in 16 shards, batch 64. Private is what a process has written and
shares with no other; PSS adds its part of what it shares: batches that are handed over, and what it was forked with. Mapped
files (the libraries' code) are left out: they are shared with whatever else runs on the machine, and that would show. Flat:
less than 5 % more after epoch 20 than after epoch 2. Linux only: reads /proc.

Price: a minute; 100 MB of temporary files, 0.6 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align_train.shards.manifest import MANIFEST_NAME, Manifest, Shard
from benchmarks.shared.children import printed
from benchmarks.shared.small_shards import make

SHARDS, BYTES_PER_PAIR = 75_000, 45_000


SMALL_SHARDS, SMALL_PAIRS, SIDE = 16, 63, 500


MIB = 2**20


def write_large_manifest(folder: Path) -> None:
    random = np.random.default_rng(0)
    counts = random.normal(9_400, 1_000, SHARDS).astype(int).clip(0).tolist()
    rows = [
        Shard(str(folder / f"{number:05d}.tar"), count, count * BYTES_PER_PAIR)
        for number, count in enumerate(counts)
    ]

    def kept() -> Iterator[NDArray[np.bool_]]:
        for count in counts:
            bits = np.frombuffer(random.bytes(-(-count // 8)), dtype=np.uint8)
            yield np.unpackbits(bits, count=count).astype(bool)

    Manifest(tuple(rows), "made for a benchmark").write(folder / MANIFEST_NAME, kept=kept())


def child(script: str, *arguments: str) -> Any:
    """What a script prints as JSON in a process of its own."""
    return json.loads(printed(script, *arguments).splitlines()[-1])


def verdict(value: float, limit: float) -> str:
    return f"{value:>10.1f}   {'ok' if value <= limit else 'MISSED'} (target {limit:g})"


def report_open(folder: Path) -> None:
    started = time.perf_counter()
    write_large_manifest(folder)
    sizes = {path.suffix: path.stat().st_size / 1e6 for path in folder.iterdir()}
    print(
        f"{SHARDS:,} shards, manifest {sizes['.jsonl']:.1f} MB, selection {sizes['.selection']:.1f} MB, written in "
        f"{time.perf_counter() - started:.0f} s",
        flush=True,
    )
    result = child("benchmarks.memory.open_shards", str(folder))
    print(f"{result['pairs']:,} pairs are kept")
    print(f"{'after the imports, MiB':<48}{result['imports'] / MIB:>10.1f}")
    print(f"{'resolve, s':<48}{verdict(result['resolve_seconds'], 5)}")
    print(
        f"{'resolve: growth, MiB':<48}{verdict((result['resolved'] - result['imports']) / MIB, 300)}"
    )
    print(f"{'resolve: peak of the process, MiB':<48}{result['peak'] / MIB:>10.1f}")
    print(f"{'counts and identity (a hash over all), ms':<48}{result['identity_ms']:>10.1f}")
    print(f"{'order, ms':<48}{result['order_ms']:>10.1f}")
    for batch, limit in (("16384", 10.0), ("65536", 40.0)):
        first, *others = result["steps_ms"][batch]
        head = f"batch {int(batch):,}, CPU ms: "
        print(f"{f'{head}first random step':<48}{verdict(first, limit)}")
        print(f"{f'{head}20 random steps, median':<48}{verdict(float(np.median(others)), limit)}")
        print(f"{f'{head}20 random steps, max':<48}{max(others):>10.1f}")
    print(f"{'bits of one selection: the first, ms':<48}{result['bits_ms'][0]:>10.2f}")
    print(
        f"{'bits of one selection: median of 20, ms':<48}{np.median(result['bits_ms'][1:]):>10.2f}"
    )
    print(
        f"{'after all that, growth, MiB':<48}{verdict((result['end'] - result['imports']) / MIB, 300)}"
    )
    print(f"{'after all that, in all, MiB':<48}{result['end'] / MIB:>10.1f}")


def report_workers(folder: Path) -> None:
    kind = make(folder, shards=SMALL_SHARDS, pairs=SMALL_PAIRS, side=SIDE)
    print(
        f"\n{SMALL_SHARDS * SMALL_PAIRS:,} pairs ({kind}, longer side {SIDE}) in {SMALL_SHARDS} shards, 2 workers, batch 64"
    )
    rows = child("benchmarks.memory.workers", str(folder))
    print(
        f"{'MiB':<8}"
        + "".join(f"{f'{name}: private':>20}{'PSS':>9}" for name in rows[0]["processes"])
    )
    for row in rows:
        cells = "".join(
            f"{private / MIB:>20.1f}{pss / MIB:>9.1f}" for private, pss in row["processes"].values()
        )
        print(f"{'epoch ' + str(row['epoch']):<8}{cells}")
    settled, last = (
        next(row["processes"] for row in rows if row["epoch"] == epoch)
        for epoch in (2, rows[-1]["epoch"])
    )
    for name in settled:
        private, pss = (last[name][part] / settled[name][part] - 1 for part in (0, 1))
        flat = "flat" if max(private, pss) < 0.05 else "NOT flat"
        print(
            f"{name}, epoch 2 to {rows[-1]['epoch']}: private {private:+.1%}, PSS {pss:+.1%}: {flat}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--only", choices=("open", "workers"))
    only = parser.parse_args().only
    with tempfile.TemporaryDirectory() as folder:
        if only != "workers":
            (Path(folder) / "large").mkdir()
            report_open(Path(folder) / "large")
        if only != "open":
            report_workers(Path(folder) / "small")


if __name__ == "__main__":
    main()
