"""Opens a large manifest and asks its order for steps, in a process of its own; started by `benchmarks.memory`.

    python -m benchmarks.memory_open FOLDER

Prints one JSON line: bytes and times (of the steps the CPU's, which a busy machine disturbs less than the clock's). Imports
nothing that opening a manifest does not need.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from random import Random

import numpy as np

from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.resolve import resolve
from align_train.stream.order import Order

LANES, WINDOW, STEPS, EPOCHS = 1024, 32_768, 20, 20


def resident(line: str = "VmRSS:") -> int:
    """Bytes of the resident set; VmHWM: its peak."""
    status = Path("/proc/self/status").read_text()
    return next(int(row.split()[1]) for row in status.splitlines() if row.startswith(line)) * 1024


def main(folder: str) -> None:
    imports = resident()
    started = time.perf_counter()
    manifest = resolve(folder, caption=CaptionSource.parse("txt"), progress=False)
    seconds, resolved, peak = time.perf_counter() - started, resident(), resident("VmHWM:")

    def since(started: float) -> float:
        return 1000 * (time.perf_counter() - started)

    started = time.perf_counter()
    counts, _ = manifest.counts, manifest.identity
    identity_ms = since(started)
    started = time.perf_counter()
    order = Order(counts=counts, seed=0, lanes=LANES, window=WINDOW)
    order_ms = since(started)
    random = Random(0)
    steps: dict[int, list[float]] = {}
    for batch in (16_384, 65_536):
        slots = np.arange(batch)
        last = EPOCHS * order.sources[0].epoch_pairs // batch
        steps[batch] = []
        for step in random.sample(range(last), STEPS + 1):
            started = time.thread_time()
            order.global_batch(step * batch, batch, slots)
            steps[batch].append(1000 * (time.thread_time() - started))
    bits = []
    for number in random.sample(range(len(manifest.shards)), STEPS + 1):
        row = manifest.shards[number]
        assert row.selection is not None
        started = time.perf_counter()
        kept = row.selection.read(ShardCache())
        bits.append(since(started))
        assert kept.sum() == row.pairs
    times = {
        "resolve_seconds": seconds,
        "identity_ms": identity_ms,
        "order_ms": order_ms,
        "steps_ms": steps,
        "bits_ms": bits,
    }
    memory = {"imports": imports, "resolved": resolved, "peak": peak, "end": resident()}
    print(json.dumps({"pairs": manifest.pairs, **times, **memory}))


if __name__ == "__main__":
    main(*sys.argv[1:])
