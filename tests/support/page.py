"""What stands in a report: read by Python's own HTML parser."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

Table = list[list[str]]

_VOID = ("meta", "img", "link", "br", "input")


class Report(HTMLParser):
    """A parsed report.

    Attributes:
        tags: Each element's name and attributes, in their order.
        tables: By id; those without one under their place among all.
        texts: All text but that of scripts and styles.
        scripts: The texts of the scripts.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, Table] = {}
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self._table: Table = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "table":
            self._table = self.tables.setdefault(str(dict(attrs).get("id", len(self.tables))), [])
        if tag == "tr":
            self._table.append([])
        if tag in ("th", "td"):
            self._table[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, "each element is closed"

    def handle_data(self, data: str) -> None:
        inner = self._open[-1] if self._open else ""
        if inner == "script":
            self.scripts.append(data)
        elif inner != "style":
            self.texts.append(data)
            if {"td", "th"} & set(self._open[-1:]):
                self._table[-1][-1] += data

    @property
    def text(self) -> str:
        """All that is read."""
        return " ".join(" ".join(self.texts).split())

    @property
    def charts(self) -> list[dict[str, Any]]:
        """What the script draws."""
        if not self.scripts:
            return []
        charts: list[dict[str, Any]] = json.loads(self.scripts[0])
        return charts

    def points(self) -> dict[str, list[tuple[int, float]]]:
        """The curves by title and label: step and value."""
        found = {}
        for chart in self.charts:
            for label, column in zip(chart["labels"], chart["columns"], strict=True):
                pairs = zip(chart["steps"], column, strict=True)
                name = f"{chart['title']}: {label}"
                found[name] = [(step, value) for step, value in pairs if value is not None]
        return found
