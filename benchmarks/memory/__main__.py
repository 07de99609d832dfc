"""The memory of a run's data: a manifest of 75,000 shards, and loader workers over 20 epochs.

    python -m benchmarks.memory [--only open|workers]

*Open*: a manifest of 75,000 shards (no tars behind it) with 700 M pairs, of which a selection keeps
half. A fresh process that imports only its needs resolves it, builds the order and asks for random
steps. Growth is of the resident set, from after the imports; the peak is the highest that the
process ever had. Steps are drawn from 20 epochs, so that most meet an epoch for the first time. In
the very first, NumPy imports a module of its own. Targets: open in 5 s and 300 MB; a step of 16,384
pairs in 10 ms of CPU time (65,536: 40).

*Workers*: a loader with two workers over 1,000 real pairs in 16 shards, batch 64. Private memory is
written by a process and shared with no other. PSS adds the process's part of shared memory: batches
that are handed over, and everything that it was forked with. Mapped files (the libraries' code) are
left out: they are shared with all other programs of the machine, so that the figures would depend
on those. Flat: less than 5 % more after epoch 20 than after epoch 2. Linux only: reads /proc.

Price: a minute; 100 MB of temporary files, 0.6 GB of memory.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from align_train.shards.manifest import MANIFEST_NAME, Manifest
from align_train.shards.row import Shard
from benchmarks.shared.children import json_of
from benchmarks.shared.command_line import parser_of
from benchmarks.shared.sizes import BATCH
from benchmarks.shared.small_shards import make

SHARDS = 75_000
BYTES_PER_PAIR = 45_000

SMALL_SHARDS = 16
SMALL_PAIRS = 63  # of a shard
SIDE = 500  # pixels

OPEN_SECONDS = 5
OPEN_MIB = 300
STEP_MS = {"16384": 10.0, "65536": 40.0}  # by batch
FLAT = 0.05
SETTLED = 2  # the epoch that the last one is compared with

MIB = 2**20


class Opened(TypedDict):
    """The result of `benchmarks.memory.open_shards`: bytes, unless the name says otherwise."""

    pairs: int
    resolve_seconds: float
    identity_ms: float
    order_ms: float
    steps_ms: dict[str, list[float]]
    bits_ms: list[float]
    imports: int
    resolved: int
    peak: int
    end: int


class Look(TypedDict):
    """A row of `benchmarks.memory.workers`: (private bytes, PSS) of each process."""

    epoch: int
    processes: dict[str, tuple[int, int]]


def write_large_manifest(folder: Path) -> None:
    """Writes a manifest of shards that do not exist, and a selection of half of their pairs."""
    random = np.random.default_rng(0)
    counts = random.normal(9_400, 1_000, SHARDS).astype(int).clip(0).tolist()
    shards = []
    for index, count in enumerate(counts):
        shards.append(Shard(str(folder / f"{index:05d}.tar"), count, count * BYTES_PER_PAIR))

    def kept() -> Iterator[NDArray[np.bool_]]:
        for count in counts:
            whole_bytes = -(-count // 8)
            bits = np.frombuffer(random.bytes(whole_bytes), dtype=np.uint8)
            yield np.unpackbits(bits, count=count).astype(bool)

    manifest = Manifest(tuple(shards), "made for a benchmark")
    manifest.write(folder / MANIFEST_NAME, kept=kept())


def verdict(value: float, limit: float) -> str:
    return f"{value:>10.1f}   {'ok' if value <= limit else 'MISSED'} (target {limit:g})"


def show(name: str, value: str) -> None:
    print(f"{name:<48}{value}")


def report_open(folder: Path) -> None:
    """Measures and prints the first part."""
    started = time.perf_counter()
    write_large_manifest(folder)
    seconds = time.perf_counter() - started
    sizes = {path.suffix: path.stat().st_size / 1e6 for path in folder.iterdir()}
    print(
        f"{SHARDS:,} shards, manifest {sizes['.jsonl']:.1f} MB, "
        f"selection {sizes['.selection']:.1f} MB, written in {seconds:.0f} s",
        flush=True,
    )

    opened: Opened = json_of("benchmarks.memory.open_shards", str(folder))
    growth = (opened["resolved"] - opened["imports"]) / MIB
    print(f"{opened['pairs']:,} pairs are kept")
    show("after the imports, MiB", f"{opened['imports'] / MIB:>10.1f}")
    show("resolve, s", verdict(opened["resolve_seconds"], OPEN_SECONDS))
    show("resolve: growth, MiB", verdict(growth, OPEN_MIB))
    show("resolve: peak of the process, MiB", f"{opened['peak'] / MIB:>10.1f}")
    show("counts and identity (a hash over all), ms", f"{opened['identity_ms']:>10.1f}")
    show("order, ms", f"{opened['order_ms']:>10.1f}")

    for batch, limit in STEP_MS.items():
        first, *others = opened["steps_ms"][batch]
        head = f"batch {int(batch):,}, CPU ms: "
        show(f"{head}first random step", verdict(first, limit))
        show(f"{head}20 random steps, median", verdict(float(np.median(others)), limit))
        show(f"{head}20 random steps, max", f"{max(others):>10.1f}")

    first, *others = opened["bits_ms"]
    growth = (opened["end"] - opened["imports"]) / MIB
    show("bits of one selection: the first, ms", f"{first:>10.2f}")
    show("bits of one selection: median of 20, ms", f"{np.median(others):>10.2f}")
    show("after all that, growth, MiB", verdict(growth, OPEN_MIB))
    show("after all that, in all, MiB", f"{opened['end'] / MIB:>10.1f}")


def report_workers(folder: Path) -> None:
    """Measures and prints the second part."""
    kind = make(folder, shards=SMALL_SHARDS, pairs=SMALL_PAIRS, side=SIDE)
    print(
        f"\n{SMALL_SHARDS * SMALL_PAIRS:,} pairs ({kind}, longer side {SIDE}) in {SMALL_SHARDS} "
        f"shards, 2 workers, batch {BATCH}"
    )

    looks: list[Look] = json_of("benchmarks.memory.workers", str(folder))
    heads = "".join(f"{f'{name}: private':>20}{'PSS':>9}" for name in looks[0]["processes"])
    print(f"{'MiB':<8}{heads}")
    for look in looks:
        cells = ""
        for private, pss in look["processes"].values():
            cells += f"{private / MIB:>20.1f}{pss / MIB:>9.1f}"
        print(f"{'epoch ' + str(look['epoch']):<8}{cells}")

    settled = next(look for look in looks if look["epoch"] == SETTLED)
    last = looks[-1]
    for name, (private, pss) in settled["processes"].items():
        last_private, last_pss = last["processes"][name]
        private_growth = last_private / private - 1
        pss_growth = last_pss / pss - 1
        flat = "flat" if max(private_growth, pss_growth) < FLAT else "NOT flat"
        print(
            f"{name}, epoch {SETTLED} to {last['epoch']}: private {private_growth:+.1%}, "
            f"PSS {pss_growth:+.1%}: {flat}"
        )


def main() -> None:
    parser = parser_of("memory", __doc__)
    parser.add_argument("--only", choices=("open", "workers"))
    only = parser.parse_args().only

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if only != "workers":
            (folder / "large").mkdir()
            report_open(folder / "large")
        if only != "open":
            report_workers(folder / "small")


if __name__ == "__main__":
    main()
