"""The memory of a large device batch under gradient caching: `model=tiny`, 2,048 pairs by 32.

    python -m benchmarks.chunk_memory [--rounds 3]

The figure is the peak of one step (forward, loss, backward, LAMB) above the built model, optimizer
and inputs. It is taken for one chunk alone, for the whole device batch with `recompute=true`, and
for the same batch with every chunk's graph kept. The benchmark also says whether the last two have
the same gradients. Each measurement is a fresh process; figures are medians. Target: with
recomputation at most 1.5 times one chunk alone.

*in use* is the most that the process holds if freed memory leaves it at once: glibc is set to map
each block of 128 KiB or more by itself. *heap* is the same as glibc does it by default, above the
freed memory that the warm-up left there. glibc keeps it in pieces that do not always fit; how much
that is changes from run to run.

Price: six minutes on two cores, and 7 GB of memory for the graphs.
"""

from __future__ import annotations

import tempfile
from itertools import product
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from benchmarks.shared.children import json_of
from benchmarks.shared.command_line import parser_of, refuse_no_rounds

PAIRS = 2048
CHUNK = 32
TARGET = 1.5

# Pairs of the device batch, and whether it is recomputed.
TASKS = {
    "one chunk": (CHUNK, True),
    "recompute": (PAIRS, True),
    "graphs kept": (PAIRS, False),
}

# With this, glibc returns freed memory at once.
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)}

HEADER = (
    f"{'':<14}{'pairs':>7}{'in use MB':>11}{'x one chunk':>13}"
    f"{'heap MB':>9}{'x one chunk':>13}{'seconds':>9}"
)

Kind = tuple[str, bool]  # task, and whether freed memory leaves the process at once
Figures = dict[Kind, list[dict[str, float]]]  # of each round


def measured(kind: Kind, folder: Path) -> dict[str, float]:
    """Measures one step in a process of its own, which writes its gradients into `folder`."""
    task, at_once = kind
    pairs, recompute = TASKS[task]
    figures: dict[str, float] = json_of(
        "benchmarks.chunk_memory.step",
        str(pairs),
        str(CHUNK),
        str(recompute).lower(),
        str(folder / f"{task}.safetensors"),
        **(AT_ONCE if at_once else {}),
    )
    return figures


def same_gradients(folder: Path) -> str:
    """Says in words how near the gradients with and without recomputation are."""
    one = load_file(folder / "recompute.safetensors")
    other = load_file(folder / "graphs kept.safetensors")
    assert one
    assert one.keys() == other.keys()
    if all(torch.equal(one[name], other[name]) for name in one):
        return f"bitwise equal, all {len(one)}"

    errors = []
    for name, gradient in other.items():
        difference = one[name] - gradient
        errors.append(float(difference.norm() / gradient.norm()))
    return f"DIFFERENT, by {max(errors):.1e} at most"


def run(rounds: int) -> tuple[Figures, str]:
    """Measures all kinds, and compares the gradients of the last round."""
    kinds = list(product(TASKS, (True, False)))
    figures: Figures = {kind: [] for kind in kinds}
    with (
        tempfile.TemporaryDirectory() as name,
        tqdm(total=rounds * len(kinds), unit="measurement") as bar,
    ):
        folder = Path(name)
        for _ in range(rounds):
            for kind in kinds:
                figures[kind].append(measured(kind, folder))
                bar.update()
        return figures, same_gradients(folder)


def row_of(task: str, figures: Figures, peaks: dict[Kind, float]) -> str:
    """Returns a task's row of the table."""
    pairs, _ = TASKS[task]
    cells = ""
    for at_once, width in ((True, 11), (False, 9)):
        peak = peaks[task, at_once]
        ratio = peak / peaks["one chunk", at_once]
        cells += f"{peak / 1e6:>{width},.0f}{ratio:>13.2f}"

    verdict = ""
    if task == "recompute":
        met = peaks[task, True] <= TARGET * peaks["one chunk", True]
        verdict = f"   {'ok' if met else 'MISSED'} (in use, target {TARGET})"

    # As a user's run does it: glibc without our setting.
    seconds = median(row["seconds"] for row in figures[task, False])
    return f"{task:<14}{pairs:>7,}{cells}{seconds:>9.1f}{verdict}"


def main() -> None:
    parser = parser_of("chunk_memory", __doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    refuse_no_rounds(rounds)

    figures, same = run(rounds)

    print(HEADER)
    peaks = {}
    for kind, rows in figures.items():
        peaks[kind] = median(row["peak"] for row in rows)
    for task in TASKS:
        print(row_of(task, figures, peaks))
    print(f"gradients of parameters with and without recomputation: {same}")


if __name__ == "__main__":
    main()
