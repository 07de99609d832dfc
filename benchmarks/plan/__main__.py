"""What training needs, planned and measured: memory by part, and bytes sent.

    python -m benchmarks.plan [--only PART_OF_NAME] [--measure missing|all] [--compare] [--seconds]

Without options it measures what was not measured yet, then prints both. 36 setups take an hour on
two cores. `--compare` measures nothing. `--seconds` measures the seconds of a step anew, of the
setups with one process, on all cores: only on a machine that does nothing else.

Target: memory within 10 % and bytes sent within 5 % of what was measured, in every setup.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.plan.data import make_shards
from benchmarks.plan.measure import measure
from benchmarks.plan.setups import SETUPS, Setup
from benchmarks.plan.table import compare
from benchmarks.shared.children import REPOSITORY
from benchmarks.shared.command_line import parser_of

FILE = REPOSITORY / "outputs" / "benchmarks" / "plan" / "measured.json"
OF_TIME = ("step_seconds", "pairs_per_second")


def main() -> None:
    parser = parser_of("plan", __doc__)
    parser.add_argument("--only", default="", help="a part of the setups' names")
    parser.add_argument("--measure", choices=("missing", "all"), default="missing")
    parser.add_argument("--compare", action="store_true", help="measure nothing")
    parser.add_argument("--seconds", action="store_true", help="measure the seconds anew")
    asked = parser.parse_args()

    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    setups = [setup for setup in SETUPS if asked.only in setup.name]
    if asked.seconds:
        setups = [setup for setup in setups if setup.ranks == 1]
        measure_all(setups, known, only_seconds=True)
        for setup in setups:
            print(f"{setup.name:<46} {known[setup.name]['step_seconds']:7.3f} s a step")
        return

    if not asked.compare:
        missing = [setup for setup in setups if setup.name not in known]
        measure_all(setups if asked.measure == "all" else missing, known)
    compare(setups, known)


def measure_all(setups: list[Setup], known: dict[str, Any], *, only_seconds: bool = False) -> None:
    """Measures setups one after the other; each is written to the file at once.

    Args:
        setups: The setups.
        known: Rows by the setup's name, which are replaced.
        only_seconds: Leave all but the seconds as they are.
    """
    threads = os.cpu_count() or 1 if only_seconds else 1
    FILE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        shards = Path(name)
        make_shards(shards)
        for setup in tqdm(setups, unit="run"):
            row = measure(setup, shards, threads=threads)
            if only_seconds and setup.name in known:
                row = known[setup.name] | {field: row[field] for field in OF_TIME}
            known[setup.name] = row
            FILE.write_text(json.dumps(known, indent=1))


if __name__ == "__main__":
    main()
