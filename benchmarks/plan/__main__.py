"""What training needs, measured: memory by part, bytes sent, seconds of real runs.

python -m benchmarks.plan [--only PART_OF_NAME] [--measure missing|all]
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tqdm import tqdm

from benchmarks.plan.data import make_shards
from benchmarks.plan.measure import measure
from benchmarks.plan.setups import SETUPS
from benchmarks.shared.children import REPOSITORY
from benchmarks.shared.command_line import parser_of

FILE = REPOSITORY / "outputs" / "benchmarks" / "plan" / "measured.json"
MB = 1e6


def main() -> None:
    parser = parser_of("plan", __doc__)
    parser.add_argument("--only", default="", help="a part of the setups' names")
    parser.add_argument("--measure", choices=("missing", "all", "none"), default="missing")
    asked = parser.parse_args()

    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    setups = [setup for setup in SETUPS if asked.only in setup.name]
    FILE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        shards = Path(name)
        make_shards(shards)
        for setup in tqdm(setups, unit="run"):
            if asked.measure == "none" or (asked.measure == "missing" and setup.name in known):
                continue
            known[setup.name] = measure(setup, shards)
            FILE.write_text(json.dumps(known, indent=1))

    for setup in setups:
        row = known.get(setup.name)
        if row is None:
            continue
        worst = max(row["each"], key=lambda rank: rank["peak"])
        phases = " ".join(f"{value / MB:7.1f}" for value in worst["phases"].values())
        print(
            f"{setup.name:<44} first {row['first_step_peak'] / MB:7.1f} peak {row['peak'] / MB:7.1f}"
            f" | {phases} | sent {row['bytes_per_step'] / MB:8.2f} MB | {row['step_seconds']:.2f} s"
            f" {row['tokens']} {row['wall_seconds']:.0f}s"
        )


if __name__ == "__main__":
    main()
