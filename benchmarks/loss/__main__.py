"""The exact loss against open_clip's `ClipLoss`: value, gradients, time, memory and bytes sent.

    python -m benchmarks.loss [--batches 4096 8192] [--processes 1 2] [--skip-large]
        [--device cuda]

Ours is `ContrastiveLoss(label_smoothing=0.0)`. ClipLoss is in its fair setting, local_loss=True and
gather_with_grad=True: it is exact too, and keeps no B x B matrix on any rank of several. Both get
the same embeddings at temperature 0.07: dim 640, float32, a text is its image plus noise, cosine
0.62.

Each measurement is a fresh process per rank. One process has all cores; several share them and talk
over gloo (--device cuda: a GPU each, nccl, no rule for what fits). Rounds alternate between both,
each beginning in turn. Figures are medians, ratios the median of the ratios within a round.
open_clip runs in `.venv-peers`.

Columns:

- *value*: the mean over ranks.
- *gradient*: the largest difference of any entry of the image or the text gradient, relative to the
  largest entry; *d temperature*: the same of the temperature's. Both are taken as a strategy that
  averages over ranks would see them.
- *seconds*: forward + backward, of the slowest rank.
- *CPU s*: the CPU time of all ranks, which a busy neighbour disturbs less, except for two threads
  of one process: they spin while they wait for each other.
- *peak MB*: the most that a process (the largest) takes above the embeddings that it was given,
  gradients included.
- *time*, *by CPU* and *memory*: ours / open_clip.
- *MB sent*: the size of the tensors that a rank hands to collectives, its own part included. Ours
  are all_gather_into_tensor, reduce_scatter_tensor and all_reduce. open_clip's
  `torch.distributed.nn.all_gather` hands the features to all_gather. Backward, it hands the
  gradients of all features to one scatter per rank (gloo) or to reduce_scatter (nccl).

ClipLoss needs about four matrices n x B (device x global batch). It is left out if less memory than
that is free. The targets, for one process: at 16,384 memory 1/25, time 0.65; at 65,536, ours alone,
1.5 GB.

Price: about 15 minutes on two idle cores (41 measurements, whose imports take a third of it), 30 if
others work there; 18 GB of memory for ClipLoss at 32,768, 0.7 GB of temporary files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.loss.outcome import COLUMNS, LARGE, WHICH, Case, Outcome, last_line, line, rows
from benchmarks.shared.children import LONGEST_ERROR, REPOSITORY
from benchmarks.shared.command_line import parser_of
from benchmarks.shared.peers import peers_python, versions
from benchmarks.shared.proc import free_bytes

BATCHES = (4096, 8192, 16_384, 32_768)
PROCESSES = (1, 2)

DIM = 640
NOISE = 1.25
SEED = 0

PROCESS_BYTES = 1e9  # of an idle process, open_clip imported

# How the ranks' figures become one.
COMBINE: dict[str, Callable[[list[float]], float]] = {
    "value": mean,
    "seconds": max,
    "cpu_seconds": sum,
    "peak": max,
    "sent": max,
}

Gradient = NDArray[np.float32]


def write_inputs(folder: Path, batch: int) -> None:
    """Writes the embeddings of a global batch: unit vectors `[batch, DIM]`."""
    random = np.random.default_rng(SEED)
    images = random.standard_normal((batch, DIM), dtype=np.float32)
    noise = random.standard_normal((batch, DIM), dtype=np.float32)
    for name, table in (("images", images), ("texts", images + NOISE * noise)):
        norms = np.linalg.norm(table, axis=1, keepdims=True)
        np.save(folder / f"{name}.npy", table / norms)


def measured(which: str, case: Case, folder: Path, device: str, python: str) -> dict[str, float]:
    """Measures one loss once, by a process per rank.

    Args:
        which: The loss.
        case: The setting.
        folder: The folder of the embeddings; the workers write their gradients into it.
        device: `cpu` or `cuda`.
        python: The interpreter of the loss.

    Raises:
        SystemExit: A rank failed; its last words are in the message.
    """
    world = case.processes
    (folder / "rendezvous").unlink(missing_ok=True)  # the former measurement's
    command = [python, "-m", "benchmarks.loss.worker", which, str(folder)]
    ranks = []
    for rank in range(world):
        process = subprocess.Popen(
            [*command, str(rank), str(world), device],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        ranks.append(process)

    results = []
    try:
        for rank, process in enumerate(ranks):
            out, errors = process.communicate()
            if process.returncode != 0:
                last_words = errors.decode(errors="replace")[-LONGEST_ERROR:]
                raise SystemExit(
                    f"{which}, {case}: rank {rank} ended with {process.returncode}:\n{last_words}"
                )
            results.append(json.loads(out.splitlines()[-1]))
    finally:
        # The other ranks would wait for the one that failed.
        for process in ranks:
            process.kill()

    figures = {}
    for name, combine in COMBINE.items():
        figures[name] = combine([result[name] for result in results])
    return figures


def differences(case: Case, folder: Path) -> tuple[float, float]:
    """Compares the gradients that both losses wrote last.

    Returns:
        The largest difference by the largest entry: of the embeddings' gradients, and of the
        temperature's.
    """
    ours = gradients("ours", case, folder)
    theirs = gradients("open_clip", case, folder)
    errors = {}
    for name, gradient in theirs.items():
        difference = np.abs(ours[name] - gradient).max()
        errors[name] = float(difference / np.abs(gradient).max())
    return max(errors["images"], errors["texts"]), errors["temperature"]


def gradients(which: str, case: Case, folder: Path) -> dict[str, Gradient]:
    """Reads the gradients of all ranks as a strategy sees them that averages over ranks."""
    of_ranks = [np.load(folder / f"{which}-{rank}.npz") for rank in range(case.processes)]
    images = np.concatenate([arrays["images"] for arrays in of_ranks])
    texts = np.concatenate([arrays["texts"] for arrays in of_ranks])
    temperature = sum(arrays["temperature"] for arrays in of_ranks)
    return {
        "images": images / case.processes,
        "texts": texts / case.processes,
        "temperature": temperature / case.processes,
    }


def left_out(case: Case, device: str) -> str | None:
    """Returns the reason why open_clip cannot be measured, or None."""
    if case.alone:
        return "not measured"
    if device == "cuda":
        return None

    # Four float32 matrices, of all ranks together.
    needed = 4 * 4 * case.batch**2 + case.processes * PROCESS_BYTES
    free = free_bytes()
    if needed <= free:
        return None
    return f"left out: needs {needed / 1e9:.1f} GB, free are {free / 1e9:.1f} GB"


def run(case: Case, device: str, peers: str, bar: tqdm[None]) -> Outcome:
    """Measures a case in all its rounds."""
    outcome = Outcome({which: [] for which in WHICH})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, case.batch)
        for turn in range(case.rounds):
            for which in WHICH[:: -1 if turn % 2 else 1]:
                if which == "open_clip" and outcome.reason is None:
                    outcome.reason = left_out(case, device)
                if which == "open_clip" and outcome.reason:
                    continue

                bar.set_postfix_str(f"{case.processes} x {case.batch // case.processes:,}, {which}")
                python = peers if which == "open_clip" else sys.executable
                outcome.rounds[which].append(measured(which, case, folder, device, python))
                bar.update()

        if outcome.reason is None:
            outcome.differences = differences(case, folder)
    return outcome


def cases_of(options: Namespace) -> list[Case]:
    """Lists the cases that the command line asks for.

    Raises:
        SystemExit: A batch does not divide evenly among the processes.
    """
    cases = []
    for processes, batch in product(options.processes, options.batches):
        if processes < 1 or batch < 1 or batch % processes:
            raise SystemExit(
                f"--batches {batch} --processes {processes}: expected a multiple of the processes"
            )
        cases.append(Case(processes, batch))
    if not options.skip_large:
        cases.append(Case(1, LARGE, alone=True))
    return cases


def main() -> None:
    parser = parser_of("loss", __doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="global batches")
    parser.add_argument("--processes", type=int, nargs="+", default=PROCESSES)
    parser.add_argument(
        "--skip-large",
        action="store_true",
        help=f"without ours alone at {LARGE:,}",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    cases = cases_of(options)

    peers = peers_python()
    ours_versions = versions(sys.executable, "torch")
    peers_versions = versions(peers, "open_clip_torch", "torch")
    print(f"ours: {ours_versions}; open_clip: {peers_versions}")
    print(line(tuple(COLUMNS)), flush=True)

    outcomes: dict[Case, Outcome] = {}
    total = sum(case.rounds * (1 if case.alone else 2) for case in cases)
    with tqdm(total=total, unit="measurement") as bar:
        for case in cases:
            outcomes[case] = run(case, options.device, str(peers), bar)
            for row in rows(case, outcomes[case]):
                bar.write(row)
    print(last_line(outcomes))


if __name__ == "__main__":
    main()
