"""Opens a large manifest and asks its order for steps; started by `benchmarks.memory`.

    python -m benchmarks.memory.open_shards FOLDER

It has a process of its own, and imports nothing that opening a manifest does not need. It prints
one JSON line of bytes and times. The times of steps are the CPU's, which a busy machine disturbs
less than the clock's.
"""

from __future__ import annotations

import json
import sys
import time
from random import Random

import numpy as np

from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import Manifest
from align_train.shards.resolve import resolve
from align_train.stream.order import Order
from benchmarks.shared.proc import status_bytes

LANES = 1024
WINDOW = 32_768
EPOCHS = 20
BATCHES = (16_384, 65_536)
LOOKS = 21  # the first one is reported by itself


def since(started: float) -> float:
    """Returns the milliseconds since a time of the clock."""
    return 1000 * (time.perf_counter() - started)


def steps_ms(order: Order, random: Random) -> dict[int, list[float]]:
    """Times random steps of many epochs, in milliseconds of CPU time by batch."""
    times: dict[int, list[float]] = {}
    for batch in BATCHES:
        slots = np.arange(batch)
        last = EPOCHS * order.sources[0].epoch_pairs // batch
        times[batch] = []
        for finished_steps in random.sample(range(last), LOOKS):
            started = time.thread_time()
            order.global_batch(finished_steps * batch, batch, slots)
            times[batch].append(1000 * (time.thread_time() - started))
    return times


def bits_ms(manifest: Manifest, random: Random) -> list[float]:
    """Times the reading of random selections, in milliseconds."""
    times = []
    for index in random.sample(range(len(manifest.shards)), LOOKS):
        shard = manifest.shards[index]
        assert shard.selection is not None
        started = time.perf_counter()
        kept = shard.selection.read(ShardCache())
        times.append(since(started))
        assert kept.sum() == shard.pairs
    return times


def main(folder: str) -> None:
    imports = status_bytes("VmRSS")
    started = time.perf_counter()
    manifest = resolve(folder, caption=CaptionSource.parse("txt"), progress=False)
    resolve_seconds = time.perf_counter() - started
    resolved = status_bytes("VmRSS")
    peak = status_bytes("VmHWM")

    # Both are computed when they are first asked for.
    started = time.perf_counter()
    counts = manifest.counts
    _ = manifest.identity
    identity_ms = since(started)

    started = time.perf_counter()
    order = Order(counts=counts, seed=0, lanes=LANES, window=WINDOW)
    order_ms = since(started)

    random = Random(0)
    result = {
        "pairs": manifest.pairs,
        "resolve_seconds": resolve_seconds,
        "identity_ms": identity_ms,
        "order_ms": order_ms,
        "steps_ms": steps_ms(order, random),
        "bits_ms": bits_ms(manifest, random),
        "imports": imports,
        "resolved": resolved,
        "peak": peak,
        "end": status_bytes("VmRSS"),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
