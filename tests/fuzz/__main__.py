"""`python -m tests.fuzz --mutants 100000 --only jpeg png`: broken bytes for whatever reads bytes.

The table says of each kind how many mutants were accepted, refused, or escaped: raised anything but
ValueError, hung, died, or took more than 1 GB beside the libraries. Each escape is saved as a file,
and can be repeated:

    python -m tests.fuzz --only KIND --first NUMBER --mutants 1

Price: 100,000 mutants of JPEGs take five minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS, prepare
from tests.fuzz.watch import MEGABYTES, SECONDS, Report, fuzz

_HEADER = (
    f"{'kind':<10}{'mutants':>9}{'accepted':>10}{'refused':>9}{'slowest ms':>12}{'number':>8}"
    f"{'peak MB':>9}{'escapes':>9}{'seconds':>9}"
)
_MOST_PRINTED = 20


def main() -> int:
    """Runs the command; returns 1 if any mutant has escaped."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=f"An escape is anything but ValueError, {SECONDS:g} s or {MEGABYTES} MB.",
    )
    parser.add_argument("--mutants", type=int, default=1000, help="of each kind (1000)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first (0)")
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="KIND")
    parser.add_argument("--save", type=Path, default=Path("outputs/fuzz"), help="for escapes")
    given = parser.parse_args()

    prepare()
    print(_HEADER, flush=True)
    reports = []
    for kind in given.only:
        report = fuzz(kind, range(given.first, given.first + given.mutants))
        print(line_of(report), flush=True)
        reports.append(report)

    for report in reports:
        save(report, given.save)
    return int(any(report.escapes for report in reports))


def line_of(report: Report) -> str:
    """A line of the table."""
    return (
        f"{report.kind:<10}{report.mutants:>9,}{report.accepted:>10,}{report.refused:>9,}"
        f"{report.slowest_ms:>12,.0f}{report.slowest:>8}"
        f"{report.peak_mb:>9,}{len(report.escapes):>9,}{report.seconds:>9,.0f}"
    )


def save(report: Report, folder: Path) -> None:
    """Saves the mutants that escaped, and says why they did."""
    corpus = TARGETS[report.kind].corpus()
    for escape in report.escapes[:_MOST_PRINTED]:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{report.kind}-{escape.number}"
        file.write_bytes(corpus.mutant(escape.number))
        print(f"{file}: {escape.reason}")
    if len(report.escapes) > _MOST_PRINTED:
        print(f"{report.kind}: and {len(report.escapes) - _MOST_PRINTED} more")


if __name__ == "__main__":
    sys.exit(main())
