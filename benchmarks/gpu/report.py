"""What the benchmark writes: JSON for each part, and one page with all tables."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu.bounded import Outcome
from benchmarks.gpu.hardware import gpus, host
from benchmarks.gpu.parts import Columns, Part

PAGE = "gpu.md"
PACKAGES = ("torch", "torchvision", "lightning", "transformers", "timm", "numpy", "deepspeed")
NOTHING = "–"

Outcomes = dict[str, Outcome]  # by row


class Report:
    """The files of one call of the benchmark, written anew after each row."""

    def __init__(self, folder: Path, device: str) -> None:
        """Notes date, machine, command and versions.

        Args:
            folder: Takes the files.
            device: `cuda` or `cpu`.
        """
        self.folder = folder
        self.head = {
            "date": date.today().isoformat(),
            "command": "python -m benchmarks.gpu " + shlex.join(sys.argv[1:]),
            "machine": host() if device == "cpu" else f"{host()}, {gpus()}",
            "versions": versions(),
        }
        self.texts: dict[str, str] = {}

    def write(self, name: str, part: Part, outcomes: Outcomes, seconds: float) -> str:
        """Writes a part as it stands.

        Args:
            name: The name of the part.
            part: Says how its figures are shown.
            outcomes: Its rows until now.
            seconds: How long it took.

        Returns:
            Its table.
        """
        content: dict[str, Any] = self.head | {
            "part": name,
            "status": status_of(outcomes),
            "seconds": round(seconds, 1),
            "rows": {row: outcome.as_json() for row, outcome in outcomes.items()},
        }
        _whole(self.folder / f"{name}.json", json.dumps(content, indent=1))

        table = text_of(part, outcomes)
        self.texts[name] = f"## {name}: {part.TITLE}\n\n{table}\n\n{seconds:.0f} s.\n"
        lines = [f"- {key}: {value}" for key, value in self.head.items()]
        page = "\n".join(["# Measured by `benchmarks.gpu`\n", *lines, ""])
        _whole(self.folder / PAGE, page + "\n" + "\n".join(self.texts.values()))
        return table


def status_of(outcomes: Outcomes) -> str:
    """The worst status of a part's rows; what cannot be measured here is no fault."""
    found = {outcome.status for outcome in outcomes.values()}
    for status in ("failed", "no time"):
        if status in found:
            return status
    return "ok"


def text_of(part: Part, outcomes: Outcomes) -> str:
    """The table of a part; below it, why rows are missing; then what rows list."""
    found = [outcome.figures for outcome in outcomes.values()]
    shown = {}
    for key, column in part.COLUMNS.items():
        if any(figures.get(key) is not None for figures in found):
            shown[key] = column

    lines = [["", *(heading for heading, _ in shown.values()), "result"]]
    for row, outcome in outcomes.items():
        cells = [cell(outcome.figures.get(key), part.COLUMNS, key) for key in shown]
        lines.append([row, *cells, outcome.status])

    text = markdown(lines)
    notes = [f"- {row}: {outcome.error}" for row, outcome in outcomes.items() if outcome.error]
    if notes:
        text += "\n\n" + "\n".join(notes)
    for row, outcome in outcomes.items():
        for title, listed in outcome.figures.get("tables", {}).items():
            text += f"\n\n{row}, {title}:\n\n{markdown(listed)}"
    return text


def cell(value: Any, columns: Columns, key: str) -> str:
    """One figure as text."""
    if value is None:
        return NOTHING
    shape = columns[key][1]
    return format(value, shape) if isinstance(shape, str) else shape(value)


def markdown(lines: list[list[str]]) -> str:
    """A table whose columns are aligned, the first line its head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width for width in widths]

    texts = []
    for line in (lines[0], rule, *lines[1:]):
        cells = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        texts.append(f"| {' | '.join(cells)} |")
    return "\n".join(texts)


def versions() -> str:
    """Python and the packages that matter here, as they are installed."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def _whole(path: Path, text: str) -> None:
    """Writes a file so that a kill leaves the former one."""
    new = path.with_suffix(path.suffix + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
