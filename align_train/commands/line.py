"""`align-train COMMAND key=value …`: all commands by one name, beside their `python -m` forms.

A command runs as `python -m MODULE` would run it: it sees the working directory's modules, its own
arguments alone, and starts further processes by its module. Without a command, settings train.

Price: listing the commands imports none of them; it reads the first line of each one's file.
"""

from __future__ import annotations

import os
import runpy
import sys

import align_train
from align_train.config.help import summary_of
from align_train.config.messages import ending_in_one_line
from align_train.errors import UserError, did_you_mean, shown

MODULES = {
    "train": "align_train",
    "plan": "align_train.plan",
    "evaluate": "align_train.evaluate",
    "show": "align_train.show",
    "report": "align_train.report",
    "export": "align_train.export",
    "average": "align_train.average",
    "embed": "align_train.embed",
    "search": "align_train.search",
    "serve": "align_train.serve",
    "score": "align_train.score",
    "demo": "align_train.data.demo",
    "pack": "align_train.data.pack",
    "manifest": "align_train.data.manifest",
    "vocabulary": "align_train.data.vocabulary",
    "filter": "align_train.data.filter",
    "balance": "align_train.data.balance",
    "failed": "align_train.data.failed",
    "repeats": "align_train.data.repeats",
}
"""Command -> the module that `python -m` runs."""

_HINTS = """\
Without a command, settings train: `align-train name=mine` is `align-train train name=mine`.
`align-train COMMAND --help` explains a command's settings; `align-train --version`."""


def main() -> None:
    """Runs the command that the first word names."""
    with ending_in_one_line():
        words = sys.argv[1:]
        if not words or words[0] in ("-h", "--help"):
            print(_overview(), flush=True)
            return
        if words[0] == "--version":
            print(f"align_train {align_train.__version__}", flush=True)
            return

        name, rest = _command_and_settings(words)
    # Outside of the block: each command puts its own errors into one line.
    _run(MODULES[name], rest)


def _command_and_settings(words: list[str]) -> tuple[str, list[str]]:
    """Cuts the command's name off; `key=value`, `~key` and options without one train."""
    first = words[0]
    if first in MODULES:
        return first, words[1:]
    if "=" in first or first.startswith(("-", "~")):
        return "train", words

    fix = did_you_mean(first, MODULES) or f"; there are {', '.join(MODULES)}"
    raise UserError(f"align-train {shown(first)}: no such command{fix}")


def _overview() -> str:
    width = max(map(len, MODULES))
    lines = [f"  {name:{width}}  {summary_of(module)}" for name, module in MODULES.items()]
    return "\n".join(["align-train COMMAND key=value …", "", *lines, "", _HINTS])


def _run(module: str, words: list[str]) -> None:
    """`python -m module words …` in this process."""
    sys.argv = [sys.argv[0], *words]
    # A user's own classes (`loss._target_=mine.Loss`) lie in the working directory.
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())
    runpy.run_module(module, run_name="__main__", alter_sys=True)
