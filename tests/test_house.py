"""The house rules that no linter knows: sizes, and a docstring in every module."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.commands import REPOSITORY

LONGEST_FILE = 400
LONGEST_FUNCTION = 60
MODULES = sorted(
    path
    for folder in ("align_train", "data", "benchmarks")
    for path in (REPOSITORY / folder).rglob("*.py")
)


def functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_files_and_functions_fit_and_each_module_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)

    assert len(text.splitlines()) <= LONGEST_FILE
    assert ast.get_docstring(tree), "a module begins with its docstring"

    for function in functions(tree):
        assert function.end_lineno is not None
        lines = function.end_lineno - function.lineno + 1
        assert lines <= LONGEST_FUNCTION, f"{function.name} has {lines} lines"


def test_the_top_of_the_package_holds_commands_and_concepts_only() -> None:
    """A `.py` at the top of `align_train/` is a command, `errors.py` or `files.py`."""
    top = {path.stem for path in (REPOSITORY / "align_train").glob("*.py")}
    commands = {path.stem for path in (REPOSITORY / "align_train" / "commands").glob("*.py")}

    assert top - {"__init__", "__main__", "errors", "files"} <= commands
