"""Measures rows of one part in a process of its own; started by `benchmarks.gpu`.

    python -m benchmarks.gpu.child PART cpu|cuda FOLDER LOG [--tiny]

Each line of standard input is JSON: a row's name, and what is known by now. The answer is one line
on standard output: the row's figures, or its error. All other output goes to standard error, which
the benchmark sends to LOG. The process ends after an error, because a GPU may be unusable then.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import TextIO

from benchmarks.gpu.parts import Figures, Options, part_of

LONGEST = 300  # characters of an error


class Skipped(Exception):
    """A row that cannot be measured here, for a reason that is no fault."""


def main() -> None:
    name, device, folder, log = sys.argv[1:5]
    answers = _own_output()
    part = part_of(name)

    for line in sys.stdin:
        question = json.loads(line)
        options = Options(
            device=device,
            tiny="--tiny" in sys.argv,
            folder=Path(folder),
            log=Path(log),
            known=question["known"],
        )
        answer: Figures
        try:
            answer = {"figures": part.measure(question["row"], options)}
        except Exception as error:
            # Whatever a row raises, the other rows must still be measured.
            skipped = type(error).__name__ == Skipped.__name__
            if not skipped:
                traceback.print_exc()
            answer = {"skipped" if skipped else "error": one_line(error)}

        print(json.dumps(answer), file=answers, flush=True)
        if "error" in answer:
            # At once: to free a broken GPU's memory may hang.
            sys.stderr.flush()
            os._exit(1)


def _own_output() -> TextIO:
    """Keeps standard output for answers: what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def one_line(error: BaseException) -> str:
    """The kind of an error and the first line of its text, cut to a length."""
    text = str(error).strip()
    first = text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {first}"[:LONGEST]


if __name__ == "__main__":
    main()
