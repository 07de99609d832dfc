"""The memory of a loader's processes over 20 epochs; started by `benchmarks.memory`.

    python -m benchmarks.memory.workers SHARDS

It has a process of its own. It prints one JSON line: after some of the epochs, the private bytes
and the PSS of this process and of its workers.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

from benchmarks.shared.our_loader import make_loader, make_pairs
from benchmarks.shared.proc import rollup_bytes
from benchmarks.shared.sizes import BATCH
from benchmarks.shared.small_shards import VOCABULARY

WORKERS = 2
EPOCHS = 20
LOOK_AFTER = (1, 2, 5, 10, 15, 20)  # epochs

# Seconds in which workers fill their queues, so that the same is in them at each look.
SETTLE = 1.0


def memory_of(pid: int) -> tuple[int, int]:
    """Returns private bytes and PSS of a process, without mapped files."""
    sizes = rollup_bytes(pid)
    return sizes["Private_Dirty"], sizes["Pss_Anon"] + sizes["Pss_Shmem"]


def memory_of_all() -> dict[str, tuple[int, int]]:
    """Returns the memory of this process and of its workers, by their names."""
    workers = multiprocessing.active_children()
    pids = sorted(worker.pid for worker in workers if worker.pid is not None)

    processes = {"main": memory_of(os.getpid())}
    for index, pid in enumerate(pids):
        processes[f"worker {index}"] = memory_of(pid)
    return processes


def main(shards: str) -> None:
    pairs = make_pairs(shards)
    loader = make_loader(pairs, str(Path(shards) / VOCABULARY), workers=WORKERS)
    rows = []
    finished_steps = 0
    for epoch in range(1, EPOCHS + 1):
        while finished_steps * BATCH < epoch * pairs.manifest.pairs:
            next(loader)
            finished_steps += 1

        if epoch in LOOK_AFTER:
            time.sleep(SETTLE)
            rows.append({"epoch": epoch, "processes": memory_of_all()})

    print(json.dumps(rows))
    loader.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
