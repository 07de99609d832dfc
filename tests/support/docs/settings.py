"""Settings that a page's tables name beside what another project calls them.

The header of these tables ends in `setting here`. A code of the second column is words of a
command line that stand together; codes without `key=value` are none.
"""

from __future__ import annotations

import re
import shlex
from itertools import chain
from pathlib import Path

HEADER = "setting here"

# Parts that no line sets both: the optimizer reads its rates, and a run has one length.
_TOGETHER = {"rates": "optimizer", "max_steps": "epochs", "max_pairs": "epochs"}

_CODE = re.compile(r"`([^`]+)`")
_SETTING = re.compile(r"\+?[a-z]\w*(\.\w+)*=\S+")


def codes(cell: str) -> list[str]:
    """The codes of a table's cell."""
    return _CODE.findall(cell)


def rows(page: Path) -> list[tuple[str, str]]:
    """The rows of the tables: the cell with the other project's names, and the one of ours."""
    found = []
    is_ours = False
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = line.strip("| ").split(" | ")
        if not line.startswith("|"):
            is_ours = False
        elif cells[-1] == HEADER:
            is_ours = True
        elif is_ours and not line.startswith("|--"):
            found.append((cells[0], cells[1]))
    return found


def settings(page: Path) -> list[list[str]]:
    """The settings of a page that stand together."""
    found = []
    for _, cell in rows(page):
        for code in codes(cell):
            words = shlex.split(code)
            if any(_SETTING.fullmatch(word) for word in words):
                found.append(words)
    return found


def together(several: list[list[str]]) -> list[list[str]]:
    """As few command lines as possible, in which no two codes of a page set the same part."""
    lines: list[dict[str, list[str]]] = []
    for words in several:
        parts = {re.split(r"[.=]", word.lstrip("+"))[0] for word in words}
        parts = {_TOGETHER.get(part, part) for part in parts}
        free = next((line for line in lines if not parts & line.keys()), None)
        if free is None:
            free = {}
            lines.append(free)
        for part in parts:
            free[part] = []
        free[min(parts)] = words

    return [list(chain.from_iterable(line.values())) for line in lines]
