"""A part of `benchmarks.gpu` whose rows end in every way that a row can end."""

from __future__ import annotations

import os
import signal
import sys
import time

from benchmarks.gpu.child import Skipped
from benchmarks.gpu.parts import Columns, Figures, Options

TITLE = "rows that end badly"
COLUMNS: Columns = {"process": ("process", "d"), "earlier": ("rows before it", "d")}
AT_ONCE = 1
LIMIT = 2.0

ROWS = ["good", "raises", "dies", "hangs", "skipped", "beyond", "last"]


def rows(options: Options) -> list[str]:
    return ROWS


def measure(row: str, options: Options) -> Figures:
    print("libraries print lines of their own")
    if row == "raises":
        raise ValueError("one\ntwo")
    if row == "dies":
        print("the last words of a process", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if row == "hangs":
        time.sleep(60)
    if row == "skipped":
        raise Skipped("not installed")

    earlier = len(options.known.get("tests.support.bad_part", {}))
    return {"process": os.getpid(), "earlier": earlier, "ok": row != "beyond"}
