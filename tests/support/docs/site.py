"""The site of the docs, built by mkdocs, and what mkdocs has against it."""

from __future__ import annotations

import ast
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.commands import REPOSITORY


def build_pages(site: Path) -> list[str]:
    """Builds the site without the reference, which is made from the code.

    Args:
        site: The folder to fill.

    Returns:
        The warnings.
    """
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    config: Any = load_config(
        str(REPOSITORY / "mkdocs.yml"),
        site_dir=str(site),
        strict=False,  # a list of all warnings is more than an end at the first ones
        plugins=["autorefs"],  # it takes `[UNK]` in a text for a link
    )
    config.nav = [section for section in config.nav if "Reference" not in section]
    return _warnings_of(lambda: build(config))


def names_of_reference(site: Path) -> set[str]:
    """The names that a built site has an entry for, from its `objects.inv`."""
    content = (site / "objects.inv").read_bytes()
    packed = content.split(b"\n", 4)[4]  # after four lines of text
    return {line.split(" ")[0] for line in zlib.decompress(packed).decode().splitlines()}


def public_names() -> Iterator[str]:
    """Modules, classes and functions of align_train and data, and methods, without `_` in any part.

    The names are those of the source: nothing is imported.
    """
    for package in ("align_train", "data"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            module = ".".join(parts)
            if _is_public(module) and not module.startswith("align_train.data"):
                yield module
                yield from _names_in(ast.parse(path.read_text(encoding="utf-8")), module)


def _names_in(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
            if child.decorator_list and not ast.get_docstring(child):
                continue  # a property or an overload that the class's docstring explains
            name = f"{prefix}.{child.name}"
            yield name
            if isinstance(child, ast.ClassDef):
                yield from _names_in(child, name)


def _is_public(module: str) -> bool:
    return not any(part.startswith("_") for part in module.split("."))


def _warnings_of(task: Any) -> list[str]:
    said: list[str] = []

    class Listed(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(self.format(record))

    handler = Listed(logging.WARNING)
    logger = logging.getLogger("mkdocs")
    logger.addHandler(handler)
    try:
        task()
    finally:
        logger.removeHandler(handler)
    return said
