"""The lists of faults of a run as a report shows them: their number, the first ones, the reasons.

Price: each list is read once, line by line.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FIRST = 20  # lines that are listed
_LONGEST = 300  # characters of a reason
_MOST_REASONS = 1000  # that are counted apart

# A path of two names or more, of which the last one stays; a URL's user and query are keys.
_PATH = re.compile(r"(?<![\w.:/])(?:~|\.{1,2})?(?:/[^\s/'\"():,;]+)+/([^\s/'\"():,;]+)")
_URL = re.compile(r"(\w+://)(?:[^\s/@]*@)?([^\s?#'\"]*)[^\s'\"]*")

Row = Mapping[str, Any]


@dataclass
class Faults:
    """Lines of bad_pairs.jsonl or non_finite.jsonl.

    Attributes:
        count: All of them.
        first: The first ones.
        reasons: How often each reason stands there, the most frequent first.
    """

    count: int
    first: Sequence[Row]
    reasons: Sequence[tuple[str, int]]


def read_faults(path: Path) -> Faults | None:
    """Reads a list of faults. A torn line counts as one.

    Args:
        path: A file with a JSON object in each line.

    Returns:
        The faults; None: there is no such file.
    """
    if not path.is_file():
        return None
    count = 0
    first: list[Row] = []
    reasons: Counter[str] = Counter()
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            count += 1
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                line = None
            if not is_mapping(line):
                line = {"reason": "a torn line"}
            if "reason" in line:
                line["reason"] = without_paths(str(line["reason"])[:_LONGEST])
                # Reasons may name files, and be as many as there are lines.
                if len(reasons) < _MOST_REASONS or line["reason"] in reasons:
                    reasons[line["reason"]] += 1
            if len(first) < _FIRST:
                first.append(line)
    return Faults(count, first, reasons.most_common(_FIRST))


def without_paths(text: str) -> str:
    """Takes folders, and users and queries of URLs, out of a library's message.

    Args:
        text: The message.
    """
    return _PATH.sub(r"\1", _URL.sub(r"\1\2", text))


def is_mapping(line: object) -> bool:
    """Whether a line is an object, as its writer made it: a hand may have written another value.

    Args:
        line: As JSON gives it.
    """
    return isinstance(line, dict)
