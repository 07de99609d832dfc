"""The memory of a large device batch under gradient caching: `model=tiny`, 2,048 pairs in chunks of 32.

    python -m benchmarks.chunk_memory [--rounds 3]

Peak of one step (forward, loss, backward, LAMB) above the built model, optimizer and inputs: of one chunk alone, of the whole
device batch with `recompute=true`, and of the same with every chunk's graph kept; and whether both have the same gradients.
Each measurement is a fresh process; medians. Target: with recomputation at most 1.5 times one chunk alone. Price: three
minutes on two cores, and 6 GB of memory for the graphs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from benchmarks.loader_shards import TOP

PAIRS, CHUNK, TARGET = 2048, 32, 1.5
TASKS = {"one chunk": (CHUNK, True), "recompute": (PAIRS, True), "graphs kept": (PAIRS, False)}  # pairs, recompute


def measured(task: str, folder: Path) -> dict[str, float]:
    pairs, recompute = TASKS[task]
    arguments = [str(pairs), str(CHUNK), str(recompute).lower(), str(folder / f"{task}.safetensors")]
    command = [sys.executable, "-m", "benchmarks.chunk_memory_step", *arguments]
    child = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
    if child.returncode != 0:
        raise SystemExit(f"{task} failed with {child.returncode}:\n{child.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(child.stdout.splitlines()[-1])
    return figures


def same_gradients(folder: Path) -> str:
    one, other = (load_file(folder / f"{task}.safetensors") for task in ("recompute", "graphs kept"))
    assert one.keys() == other.keys() and one
    if all(torch.equal(one[name], other[name]) for name in one):
        return f"bitwise equal, all {len(one)}"
    worst = max(float((one[name] - other[name]).norm() / other[name].norm()) for name in one)
    return f"DIFFERENT, by {worst:.1e} at most"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chunk_memory", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    if rounds < 1:
        raise SystemExit(f"--rounds {rounds}: expected at least 1")
    figures: dict[str, list[dict[str, float]]] = {task: [] for task in TASKS}
    with tempfile.TemporaryDirectory() as name, tqdm(total=rounds * len(TASKS), unit="measurement") as bar:
        for _ in range(rounds):
            for task in TASKS:
                figures[task].append(measured(task, Path(name)))
                bar.update()
        same = same_gradients(Path(name))
    print(f"{'':<14}{'pairs':>7}{'peak MB':>9}{'x one chunk':>13}{'seconds':>9}")
    one = median(found["peak"] for found in figures["one chunk"])
    for task, found in figures.items():
        peak, seconds = (median(row[column] for row in found) for column in ("peak", "seconds"))
        ratio = peak / one
        verdict = f"   {'ok' if ratio <= TARGET else 'MISSED'} (target {TARGET})" if task == "recompute" else ""
        print(f"{task:<14}{TASKS[task][0]:>7,}{peak / 1e6:>9,.0f}{ratio:>13.2f}{seconds:>9.1f}{verdict}")
    print(f"gradients of parameters with and without recomputation: {same}")


if __name__ == "__main__":
    main()
