"""The house rules that no linter knows: sizes, a docstring in every module, commands at the top."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.commands import REPOSITORY

LONGEST_FILE = 300
LONGEST_FUNCTION = 60


def violations(path: Path) -> Iterator[str]:
    name = path.relative_to(REPOSITORY)
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)

    if (lines := len(text.splitlines())) > LONGEST_FILE:
        yield f"{name} has {lines} lines"
    if not ast.get_docstring(tree):
        yield f"{name} has no docstring"

    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                yield f"{name}: {node.name} has {lines} lines"


def test_files_and_functions_fit_and_each_module_says_what_it_is() -> None:
    folders = ("align_train", "data", "benchmarks")
    modules = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    assert len(modules) > 100

    found = [violation for path in sorted(modules) for violation in violations(path)]
    assert not found, "\n".join(found)


def test_the_top_of_the_package_holds_commands_and_concepts_only() -> None:
    """A `.py` at the top of `align_train/` is a command, `errors.py` or `files.py`."""
    top = {path.stem for path in (REPOSITORY / "align_train").glob("*.py")}
    commands = {path.stem for path in (REPOSITORY / "align_train" / "commands").glob("*.py")}

    assert top - {"__init__", "__main__", "errors", "files"} <= commands
