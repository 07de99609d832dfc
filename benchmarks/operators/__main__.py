"""Operators, kernel launches and waits of a step of `model=b7_base` in bf16, before and after.

    python -m benchmarks.operators [--names]

They are counted on the CPU, by dispatch (`benchmarks/shared/dispatch.py` has the rules). A step is
both towers, forward and backward; a second pass of `recompute` belongs to backward. *Once* is the
work whose amount does not depend on the pairs: BatchNorm's running statistics, casts of weights.
Loss and optimizer come once a step too, and are left out.

*Before* is commit 86e0342 (`before.py`), whose chunks were norm groups of 16 pairs. *After* is
training as it is now. A step of 256 pairs in chunks of 16 follows from one and two chunks, since
every further chunk adds the same.

Images have 32 pixels. At 64 and at 289 a chunk takes 20 operators more, 0.08 a pair at 256 pairs:
the tower's last maps have more than one pixel there.

Waits are places where the host would wait for a GPU. Those of a whole step are a run's
(`whole_step.py` says what is in it), 32 pairs in two chunks. Their figures before are recorded.

Targets: in a step of 256 pairs in one chunk at most 15 operators a pair without `recompute`, and
22 with. Price: three minutes, and 6 GB of memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from benchmarks.operators.before import WAITS_OF_A_STEP
from benchmarks.shared.children import json_of
from benchmarks.shared.command_line import parser_of

GROUP = 16  # pairs of a norm group
PAIRS = 256  # of the large step
PARTS = ("forward", "backward", "once")
TARGETS = {False: 15.0, True: 22.0}  # operators a pair, by recompute
# With two threads every operator waits for both: ten times slower on a busy machine.
ALONE = {"OMP_NUM_THREADS": "1"}
SHOWN = 25  # kinds of operators with `--names`

HEADER = (
    f"{'':<8}{'pairs':>6}{'chunk':>7}{'recompute':>11}{'forward':>10}{'backward':>10}{'once':>7}"
    f"{'operators a pair':>18}{'launches a pair':>17}"
)


@dataclass(frozen=True)
class Step:
    """One row of the table.

    Attributes:
        way: `before` or `after`.
        pairs: Of the step.
        chunk: Pairs of a chunk.
        recompute: Whether each chunk is computed twice.
    """

    way: str
    pairs: int
    chunk: int
    recompute: bool


STEPS = (
    ("before", GROUP, GROUP),
    ("after", GROUP, GROUP),
    ("before", PAIRS, GROUP),
    ("after", PAIRS, GROUP),
    ("after", PAIRS, PAIRS),
)

Counts = dict[Step, dict[str, Any]]  # the rows of `step.py`


def measured(way: str, found: dict[str, Any]) -> Counts:
    """Sorts the rows of one way."""
    counts = {}
    for row in found["rows"]:
        counts[Step(way, row["pairs"], row["chunk"], row["recompute"])] = row
    return counts


def parts_of(step: Step, counts: Counts, kind: str) -> Counter[str]:
    """Returns a step's counts by part.

    Args:
        step: Measured, or of more chunks than any that is measured.
        counts: All that is measured.
        kind: `operators` or `launches`.
    """
    if step in counts:
        return Counter(counts[step][kind])

    one: Counter[str] = Counter(
        counts[Step(step.way, step.chunk, step.chunk, step.recompute)][kind]
    )
    two: Counter[str] = Counter(
        counts[Step(step.way, 2 * step.chunk, step.chunk, step.recompute)][kind]
    )
    further = step.pairs // step.chunk - 1
    return Counter({part: one[part] + further * (two[part] - one[part]) for part in PARTS})


def row_of(step: Step, counts: Counts) -> str:
    """Returns a step's row of the table."""
    operators = parts_of(step, counts, "operators")
    launches = parts_of(step, counts, "launches")
    a_pair = operators.total() / step.pairs

    verdict = ""
    if step == Step("after", PAIRS, PAIRS, step.recompute):
        target = TARGETS[step.recompute]
        verdict = f"   {'ok' if a_pair <= target else 'MISSED'} (target {target:g})"

    name = f"{step.way:<8}{step.pairs:>6}{step.chunk:>7}{'on' if step.recompute else 'off':>11}"
    cells = f"{operators['forward']:>10,}{operators['backward']:>10,}{operators['once']:>7,}"
    return f"{name}{cells}{a_pair:>18.1f}{launches.total() / step.pairs:>17.1f}{verdict}"


def waits(counts: Counts, way: str) -> int:
    """Waits of one chunk's pass through the towers, forward and backward, without `recompute`."""
    return len(counts[Step(way, GROUP, GROUP, False)]["waits"])


def names_of(row: dict[str, Any]) -> str:
    """Returns the most frequent operators of a measured step, by part."""
    lines = []
    for part, operators in row["names"].items():
        most = Counter(operators).most_common(SHOWN)
        lines.append(f"  {part}: " + ", ".join(f"{name} {count:,}" for name, count in most))
    return "\n".join(lines)


def main() -> None:
    parser = parser_of("operators", __doc__)
    parser.add_argument("--names", action="store_true", help="also the most frequent operators")
    names = parser.parse_args().names

    with tqdm(total=3, unit="process") as bar:
        before = json_of("benchmarks.operators.step", "before", **ALONE)
        bar.update()
        after = json_of("benchmarks.operators.step", "after", **ALONE)
        bar.update()
        whole = json_of("benchmarks.operators.whole_step")
        bar.update()

    counts = measured("before", before) | measured("after", after)
    print(HEADER)
    for recompute in (False, True):
        for way, pairs, chunk in STEPS:
            step = Step(way, pairs, chunk, recompute)
            print(row_of(step, counts))
            if names and step in counts:
                print(names_of(counts[step]))

    print(f"\n{'waits for the device':<44}{'before':>8}{'after':>8}")
    print(f"{'a chunk in the towers':<44}{waits(counts, 'before'):>8}{waits(counts, 'after'):>8}")
    rows = (
        ("the loss", WAITS_OF_A_STEP["loss"], after["waits_of_loss"]),
        ("a whole step of two chunks", WAITS_OF_A_STEP["plain"], whole["plain"]),
        ("the same, with a row of metrics.csv", WAITS_OF_A_STEP["logged"], whole["logged"]),
    )
    for name, recorded, places in rows:
        print(f"{name:<44}{recorded:>8}{len(places):>8}")
    print("where a step with a row waits: " + ", ".join(whole["logged"]))


if __name__ == "__main__":
    main()
