"""The memory of a loader's processes over 20 epochs, in a process of its own; started by `benchmarks.memory`.

    python -m benchmarks.memory_workers SHARDS

Prints one JSON line: after some of the epochs, the private bytes and the PSS of this process and of its workers.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

from benchmarks.loader.ours import BATCH, make_loader
from benchmarks.shared.small_shards import VOCABULARY

WORKERS, EPOCHS, LOOK_AFTER = 2, 20, (1, 2, 5, 10, 15, 20)


SETTLE = 1.0  # seconds in which workers fill their queues, so that the same is in them at each look


def memory_of(pid: int) -> tuple[int, int]:
    """Private bytes and PSS of a process, without mapped files."""
    lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    sizes = {words[0]: int(words[1]) * 1024 for words in lines[1:]}
    return sizes["Private_Dirty:"], sizes["Pss_Anon:"] + sizes["Pss_Shmem:"]


def main(shards: str) -> None:
    loader = make_loader(shards, str(Path(shards) / VOCABULARY), WORKERS)
    pairs = loader.chunks.pairs.manifest.pairs
    rows, step = [], 0
    for epoch in range(1, EPOCHS + 1):
        while step * BATCH < epoch * pairs:
            next(loader)
            step += 1
        if epoch in LOOK_AFTER:
            time.sleep(SETTLE)
            processes = {"main": os.getpid()}
            workers = sorted(
                process.pid
                for process in multiprocessing.active_children()
                if process.pid is not None
            )
            processes.update({f"worker {number}": pid for number, pid in enumerate(workers)})
            rows.append(
                {
                    "epoch": epoch,
                    "processes": {name: memory_of(pid) for name, pid in processes.items()},
                }
            )
    print(json.dumps(rows))
    loader.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
