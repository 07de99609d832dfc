"""`data.repeats` on generated embeddings with planted copies: time, memory, recall.

    python -m benchmarks.repeats [--rows 1000000 10000000] [--probes 1 2] [--folder FOLDER]
    python -m benchmarks.repeats --model outputs/demo [--data ../shared/data]

The first form makes collections of 160 numbers a row in float16, runs the command on each in a
process of its own, and reads the selection. *Recall* is the share of planted copies, by their
cosine with the original, of which the copy or the original goes. A *false positive* goes although
it is no copy, and has none, of the threshold's cosine. The peak is of all resident memory, mapped
files included.

The second form embeds photos, drawn emoji and their altered copies by a trained model, and shows
recall by kind of alteration and false positives at several thresholds (`copies.py`).

Target: 10 M rows in at most 6 GB. Price: 10 M rows take 13 minutes of CPU time and 7 GB of disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from align_train.shards.cache import ShardCache
from align_train.shards.manifest import MANIFEST_NAME, read_manifest
from benchmarks.repeats.planted import COSINES, Truth, make_collection
from benchmarks.shared.children import LONGEST_ERROR, REPOSITORY
from benchmarks.shared.command_line import parser_of

THRESHOLD = 0.95
NEAR = [cosine for cosine in COSINES if cosine >= THRESHOLD]


def main() -> None:
    parser = parser_of("repeats", __doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--probes", type=int, nargs="+", default=[2])
    parser.add_argument("--topic", type=float, default=0.75, help="cosine of a row and its topic")
    parser.add_argument("--folder", type=Path, help="for the collections, removed at the end")
    parser.add_argument("--model", type=Path, help="a run: shows recall on photos and emoji")
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    options = parser.parse_args()
    if options.model:
        from benchmarks.repeats.copies import show

        show(options.model, options.data)
        return

    recalls = " | ".join(f"{cosine:g}" for cosine in NEAR)
    print(f"| rows | probes | seconds | peak, GB | recall at {recalls} | false positives |")
    print("|--:|--:|--:|--:|" + "--:|" * len(NEAR) + "--:|")
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        for rows in options.rows:
            folder = Path(temporary) / f"rows_{rows}"
            truth = make_collection(folder, rows, options.topic)
            for probes in options.probes:
                print(measured(folder, truth, rows, probes), flush=True)
            shutil.rmtree(folder)


def measured(folder: Path, truth: Truth, rows: int, probes: int) -> str:
    """Runs the command once, and returns a row of figures."""
    to = folder / f"probes_{probes}"
    seconds, peak = run(folder / "index", to, probes)
    stays = staying(to)

    copies, originals, which = truth.T
    found = ~(stays[copies] & stays[originals])
    recalls = " | ".join(f"{found[which == COSINES.index(cosine)].mean():.2%}" for cosine in NEAR)
    may_go = np.zeros(rows, dtype=bool)
    near = np.array(COSINES)[which] >= THRESHOLD
    may_go[copies[near]] = True
    may_go[originals[near]] = True
    false = int((~stays & ~may_go).sum())
    return f"| {rows:,} | {probes} | {seconds:.0f} | {peak / 1e9:.2f} | {recalls} | {false} |"


def run(source: Path, to: Path, probes: int) -> tuple[float, int]:
    """Runs the command; returns its seconds and the peak of its memory in bytes.

    Raises:
        SystemExit: It failed.
    """
    words = [f"source={source}", f"to={to}", f"threshold={THRESHOLD}", f"probes={probes}"]
    log_path = to.parent / "repeats.log"
    began = time.perf_counter()
    with log_path.open("w") as log:
        command = [sys.executable, "-m", "data.repeats", *words]
        child = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT)
        # wait4: it returns the child's peak of memory as well.
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(log_path.read_text()[-LONGEST_ERROR:])
    return time.perf_counter() - began, usage.ru_maxrss * 1024


def staying(to: Path) -> NDArray[np.bool_]:
    """Which rows stay, of all shards; their keys are sorted already."""
    manifest = read_manifest(str(to / MANIFEST_NAME), cache=ShardCache())
    bits = []
    for shard in manifest.shards:
        assert shard.selection
        bits.append(shard.selection.read(ShardCache()))
    return np.concatenate(bits)


if __name__ == "__main__":
    main()
