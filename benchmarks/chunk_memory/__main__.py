"""The memory of a large device batch under gradient caching: `model=tiny`, 2,048 pairs in chunks of 32.

    python -m benchmarks.chunk_memory [--rounds 3]

Peak of one step (forward, loss, backward, LAMB) above the built model, optimizer and inputs: of one chunk alone, of the whole
device batch with `recompute=true`, and of the same with every chunk's graph kept; and whether both have the same gradients.
Each measurement is a fresh process; medians. Target: with recomputation at most 1.5 times one chunk alone.

*in use*: what the process holds at most, where memory that is freed leaves it at once (glibc told to map each block of 128 KiB
or more by itself). *heap*: the same as glibc does it, which keeps what is freed for later, in pieces that do not always fit;
how much that is changes from run to run. Price: six minutes on two cores, and 7 GB of memory for the graphs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from benchmarks.shared.children import printed

PAIRS, CHUNK, TARGET = 2048, 32, 1.5


TASKS = {
    "one chunk": (CHUNK, True),
    "recompute": (PAIRS, True),
    "graphs kept": (PAIRS, False),
}  # pairs, recompute


AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)}


def measured(task: str, folder: Path, *, at_once: bool) -> dict[str, float]:
    pairs, recompute = TASKS[task]
    arguments = [
        str(pairs),
        str(CHUNK),
        str(recompute).lower(),
        str(folder / f"{task}.safetensors"),
    ]
    found = printed("benchmarks.chunk_memory.step", *arguments, **(AT_ONCE if at_once else {}))
    figures: dict[str, float] = json.loads(found.splitlines()[-1])
    return figures


def same_gradients(folder: Path) -> str:
    one, other = (
        load_file(folder / f"{task}.safetensors") for task in ("recompute", "graphs kept")
    )
    assert one.keys() == other.keys() and one
    if all(torch.equal(one[name], other[name]) for name in one):
        return f"bitwise equal, all {len(one)}"
    worst = max(float((one[name] - other[name]).norm() / other[name].norm()) for name in one)
    return f"DIFFERENT, by {worst:.1e} at most"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chunk_memory", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    if rounds < 1:
        raise SystemExit(f"--rounds {rounds}: expected at least 1")
    kinds = [(task, at_once) for task in TASKS for at_once in (True, False)]
    figures: dict[tuple[str, bool], list[dict[str, float]]] = {kind: [] for kind in kinds}
    with (
        tempfile.TemporaryDirectory() as name,
        tqdm(total=rounds * len(kinds), unit="measurement") as bar,
    ):
        for _ in range(rounds):
            for task, at_once in kinds:
                figures[task, at_once].append(measured(task, Path(name), at_once=at_once))
                bar.update()
        same = same_gradients(Path(name))
    print(
        f"{'':<14}{'pairs':>7}{'in use MB':>11}{'x one chunk':>13}{'heap MB':>9}{'x one chunk':>13}{'seconds':>9}"
    )
    peaks = {kind: median(found["peak"] for found in rows) for kind, rows in figures.items()}
    for task, (pairs, _) in TASKS.items():
        cells = "".join(
            f"{peaks[task, at_once] / 1e6:>{width},.0f}{peaks[task, at_once] / peaks['one chunk', at_once]:>13.2f}"
            for at_once, width in ((True, 11), (False, 9))
        )
        met = peaks[task, True] <= TARGET * peaks["one chunk", True]
        verdict = (
            f"   {'ok' if met else 'MISSED'} (in use, target {TARGET})"
            if task == "recompute"
            else ""
        )
        print(
            f"{task:<14}{pairs:>7,}{cells}{median(row['seconds'] for row in figures[task, False]):>9.1f}{verdict}"
        )
    print(f"gradients of parameters with and without recomputation: {same}")


if __name__ == "__main__":
    main()
