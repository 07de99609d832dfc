"""The exact loss against open_clip's `ClipLoss` in its fair setting: value, gradients, time, memory and bytes sent.

    python -m benchmarks.loss [--batches 4096 8192] [--processes 1 2] [--skip-large] [--device cuda]

Ours is `ContrastiveLoss(label_smoothing=0.0)`; ClipLoss has local_loss=True and gather_with_grad=True, which is exact too and
keeps no B x B matrix on any rank of several. Both get the same embeddings (dim 640, float32, a text is its image plus noise,
cosine 0.62) at temperature 0.07. Each measurement is a fresh process per rank: one process has all cores, several share them
and talk over gloo (--device cuda: a GPU each, nccl, no rule for what fits). Rounds alternate between both, the first one
beginning in turn; figures are medians, ratios the median of the ratios within a round. open_clip runs in `.venv-peers`.

Columns: *value* is the mean over ranks; *gradient* the largest difference of any entry of the image or the text gradient,
relative to the largest entry, and *d temperature* the same of the temperature's, as an engine that averages over ranks would
see them; *seconds* forward + backward, of the slowest rank; *CPU s* the CPU time of all ranks, which a busy neighbour disturbs
less (but for two threads of one process, which spin while they wait for each other); *peak MB* what a process (the largest)
takes at most above the embeddings it was given, gradients included; *time*, *by CPU* and *memory* ours / open_clip. *MB sent*
is the size of the tensors that a rank hands to collectives, what it hands to itself included. Ours are all_gather_into_tensor,
reduce_scatter_tensor and all_reduce. open_clip's `torch.distributed.nn.all_gather` hands the features to all_gather and,
backward, the gradients of all features to one scatter per rank (gloo) or to reduce_scatter (nccl).

ClipLoss needs about four matrices n x B (device x global batch): where less memory than that is free, it is left out. The
targets, for one process: at 16,384 memory 1/25, time 0.65; at 65,536, ours alone, 1.5 GB.

Price: about 15 minutes on two idle cores (41 measurements, whose imports take a third of it), 30 where others work there;
18 GB of memory for ClipLoss at 32,768, 0.7 GB of temporary files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.shared.children import TOP
from benchmarks.shared.peers import peers_python, versions

BATCHES, PROCESSES = (4096, 8192, 16_384, 32_768), (1, 2)


DIM, NOISE, SEED = 640, 1.25, 0


LARGE = 65_536


TARGET_BATCH, TARGET_MEMORY, TARGET_TIME, TARGET_LARGE = 16_384, 1 / 25, 0.65, 1.5e9


PROCESS_BYTES = 1e9  # of an idle process, open_clip imported


HEADS = (
    *("processes", "global batch", "which", "value", "gradient", "d temperature"),
    *("seconds", "CPU s", "peak MB", "MB sent", "time", "by CPU", "memory"),
)


WIDTHS = (9, 12, 9, 8, 8, 13, 7, 6, 7, 7, 5, 6, 7)


FIGURES = ("value", "seconds", "cpu_seconds", "peak", "sent")


WHICH = ("ours", "open_clip")


@dataclass(frozen=True)
class Case:
    processes: int
    batch: int
    alone: bool = False  # without open_clip

    @property
    def rounds(self) -> int:
        return 3 if self.batch <= 16_384 else 1


@dataclass
class Outcome:
    """The figures of every round, by loss."""

    rounds: dict[str, list[dict[str, float]]]
    differences: tuple[float, float] | None = (
        None  # of the gradients of embeddings and temperature, relative
    )
    reason: str | None = None  # why open_clip's are not there

    def ratio(self, figure: str) -> float | None:
        """Ours / open_clip."""
        if self.reason is not None:
            return None
        pairs = zip(self.rounds["ours"], self.rounds["open_clip"], strict=True)
        return median([ours[figure] / theirs[figure] for ours, theirs in pairs])


def write_inputs(folder: Path, batch: int) -> None:
    random = np.random.default_rng(SEED)
    images, noise = (random.standard_normal((batch, DIM), dtype=np.float32) for _ in range(2))
    for name, rows in (("images", images), ("texts", images + NOISE * noise)):
        np.save(folder / f"{name}.npy", rows / np.linalg.norm(rows, axis=1, keepdims=True))


def measured(which: str, case: Case, folder: Path, device: str, python: str) -> dict[str, float]:
    """One process per rank; SystemExit with the last words of one that fails."""
    world = case.processes
    (folder / "rendezvous").unlink(missing_ok=True)
    command = [python, "-m", "benchmarks.loss.worker", which, str(folder)]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(world), device],
            cwd=TOP,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(world)
    ]
    results = []
    try:
        for rank, process in enumerate(ranks):
            out, err = process.communicate()
            if process.returncode != 0:
                last = err.decode(errors="replace")[-3000:]
                raise SystemExit(
                    f"{which}, {case}: rank {rank} ended with {process.returncode}:\n{last}"
                )
            results.append(json.loads(out.splitlines()[-1]))
    finally:
        for process in ranks:
            process.kill()
    combine: dict[str, Callable[..., float]] = {
        "value": mean,
        "seconds": max,
        "cpu_seconds": sum,
        "peak": max,
        "sent": max,
    }
    return {name: combine[name]([result[name] for result in results]) for name in FIGURES}


def differences(case: Case, folder: Path) -> tuple[float, float]:
    """Of the gradients that were written last, as an engine sees them that averages over ranks: of embeddings, and of the
    temperature. Largest difference by largest entry."""

    def gradients(which: str) -> list[NDArray[Any]]:
        of_ranks = [np.load(folder / f"{which}-{rank}.npz") for rank in range(case.processes)]
        found = [
            np.concatenate([arrays[name] for arrays in of_ranks]) for name in ("images", "texts")
        ]
        return [
            array / case.processes
            for array in (*found, sum(arrays["temperature"] for arrays in of_ranks))
        ]

    pairs = zip(gradients("ours"), gradients("open_clip"), strict=True)
    images, texts, temperature = (
        float(np.abs(ours - theirs).max() / np.abs(theirs).max()) for ours, theirs in pairs
    )
    return max(images, texts), temperature


def left_out(case: Case, device: str) -> str | None:
    """Why open_clip is not measured, if so."""
    if case.alone or device == "cuda":
        return "not measured" if case.alone else None
    needed = 4 * 4 * case.batch**2 + case.processes * PROCESS_BYTES  # all ranks together
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return (
        None
        if needed <= free
        else f"left out: needs {needed / 1e9:.1f} GB, free are {free / 1e9:.1f} GB"
    )


def run(case: Case, device: str, peers: str, bar: Any) -> Outcome:
    outcome = Outcome({"ours": [], "open_clip": []})
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), case.batch)
        for turn in range(case.rounds):
            for which in WHICH[:: -1 if turn % 2 else 1]:
                if which == "open_clip":
                    outcome.reason = outcome.reason or left_out(case, device)
                    if outcome.reason:
                        continue
                bar.set_postfix_str(f"{case.processes} x {case.batch // case.processes:,}, {which}")
                python = peers if which == "open_clip" else sys.executable
                outcome.rounds[which].append(measured(which, case, Path(folder), device, python))
                bar.update()
        if outcome.reason is None:
            outcome.differences = differences(case, Path(folder))
    return outcome


def rows(case: Case, outcome: Outcome) -> Iterator[str]:
    for which in WHICH:
        head = (str(case.processes), f"{case.batch:,}", which)
        if which == "open_clip" and outcome.reason:
            yield f"{line(head)}   {outcome.reason}"
            continue
        value, seconds, cpu, peak, sent = (
            median([figures[name] for figures in outcome.rounds[which]]) for name in FIGURES
        )
        shown = (f"{seconds:.2f}", f"{cpu:.1f}", f"{peak / 1e6:,.0f}", f"{sent / 1e6:.1f}")
        errors, ratios = ["", ""], ["", "", ""]
        if which == "ours" and outcome.differences:
            errors = [f"{error:.1e}" for error in outcome.differences]
            time, by_cpu, memory = (
                outcome.ratio(name) or 0.0 for name in ("seconds", "cpu_seconds", "peak")
            )
            ratios = [f"{time:.2f}", f"{by_cpu:.2f}", part(memory)]
        yield line((*head, f"{value:.5f}", *errors, *shown, *ratios))


def part(ratio: float) -> str:
    return f"1/{1 / ratio:.1f}"


def line(cells: tuple[str, ...]) -> str:
    put = [str.ljust if head == "which" else str.rjust for head in HEADS]
    return "  ".join(put[place](cell, WIDTHS[place]) for place, cell in enumerate(cells)).rstrip()


def verdict(found: float | None, target: float, write: Callable[[float], str]) -> str:
    word = (
        "not measured"
        if found is None
        else f"{write(found)} {'ok' if found <= target else 'MISSED'}"
    )
    return f"{word} (target {write(target)})"


def last_line(outcomes: dict[Case, Outcome]) -> str:
    """The figures that have a target."""
    at, large = outcomes.get(Case(1, TARGET_BATCH)), outcomes.get(Case(1, LARGE, alone=True))
    memory = verdict(at.ratio("peak") if at else None, TARGET_MEMORY, part)
    time = verdict(at.ratio("seconds") if at else None, TARGET_TIME, lambda ratio: f"{ratio:.2f}")
    peak = verdict(
        large.rounds["ours"][0]["peak"] if large else None,
        TARGET_LARGE,
        lambda size: f"{size / 1e9:.2f} GB",
    )
    return f"in one process: at {TARGET_BATCH:,} memory {memory}, time {time} of open_clip's; at {LARGE:,} above the inputs {peak}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loss", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="global batches")
    parser.add_argument("--processes", type=int, nargs="+", default=PROCESSES)
    parser.add_argument(
        "--skip-large", action="store_true", help=f"without ours alone at {LARGE:,}"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    cases = [
        Case(processes, batch) for processes, batch in product(options.processes, options.batches)
    ]
    for case in cases:
        if case.processes < 1 or case.batch < 1 or case.batch % case.processes:
            raise SystemExit(
                f"--batches {case.batch} --processes {case.processes}: expected a multiple of the processes"
            )
    cases += [] if options.skip_large else [Case(1, LARGE, alone=True)]
    peers = peers_python()
    print(
        f"ours: {versions(sys.executable, 'torch')}; open_clip: {versions(peers, 'open_clip_torch', 'torch')}"
    )
    print(line(HEADS), flush=True)
    outcomes: dict[Case, Outcome] = {}
    with tqdm(
        total=sum(case.rounds * (1 if case.alone else 2) for case in cases), unit="measurement"
    ) as bar:
        for case in cases:
            outcomes[case] = run(case, options.device, str(peers), bar)
            for row in rows(case, outcomes[case]):
                bar.write(row)
    print(last_line(outcomes))


if __name__ == "__main__":
    main()
