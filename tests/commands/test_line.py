"""`align-train COMMAND …` runs what `python -m` runs, in a checkout as from a wheel."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import align_train
from align_train.commands.line import MODULES
from tests.support.commands import REPOSITORY

LINE = "from align_train.commands.line import main; main()"


def line(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`align-train …` in a folder of its own."""
    return python("-c", LINE, *words, cwd=cwd)


def python(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_without_a_command_all_are_listed_with_a_line_each(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    done = line(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    listed = dict(re.findall(r"^  (\w+) +(\S.*)$", done.stdout, re.MULTILINE))
    assert set(listed) == set(MODULES)
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("words", [("--version",), ("train", "--version"), ("pack", "--version")])
def test_the_version_is_ours(words: tuple[str, ...], tmp_path: Path) -> None:
    done = line(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"align_train {align_train.__version__}\n")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("packk", "align-train packk: no such command, did you mean pack?"),
        ("xyzzy", f"align-train xyzzy: no such command; there are {', '.join(MODULES)}"),
    ],
)
def test_an_unknown_command_is_one_line(word: str, told: str, tmp_path: Path) -> None:
    done = line(word, "source=x", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"align_train: {told}\n")


@pytest.mark.parametrize("words", [("train", "modle=tiny"), ("modle=tiny",), ("~modle",)])
def test_settings_without_a_command_train(words: tuple[str, ...], tmp_path: Path) -> None:
    done = line(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("align_train: ") and "modle" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_foreign_data_package_in_the_working_directory_hides_nothing(tmp_path: Path) -> None:
    """In a checkout; `test_wheel.py` packs beside one."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "__init__.py").write_text("raise SystemExit('somebody else is here')")
    done = line("pack", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\n  source=???" in done.stdout


def test_the_help_of_no_command_waits_for_a_large_library(tmp_path: Path) -> None:
    code = (
        "import runpy, sys\n"
        "from align_train.commands.line import MODULES\n"
        "for module in MODULES.values():\n"
        "    sys.argv = ['align-train', '--help']\n"
        "    runpy.run_module(module, run_name='__main__', alter_sys=True)\n"
        "large = {'torch', 'transformers', 'lightning', 'timm', 'wandb', 'duckdb', 'pyarrow'}\n"
        "print('imported:', *large.intersection(sys.modules))\n"
    )
    done = python("-c", code, cwd=tmp_path)
    assert done.stdout.count("Settings (key=value)") == len(MODULES), done.stderr
    assert done.stdout.endswith("imported:\n"), done.stdout[-300:]


def texts_of(path: Path) -> Iterator[str]:
    """The texts of a module that are no docstrings: its messages are among them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in bare:
            yield node.value


def test_messages_name_commands_that_a_wheel_has_too() -> None:
    """`python -m data.pack` is wrong outside a checkout, `align-train pack` right in both."""
    named = []
    for folder in ("align_train", "data"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            for text in texts_of(path):
                assert not re.search(r"python -m (data|align_train)[. ]\S", text), (path, text)
                named += re.findall(r"align-train ([a-z]\w*)(?![\w=])", text)
    assert {"pack", "show", "embed"} <= set(named) <= set(MODULES)


def test_each_command_says_in_its_first_line_how_and_for_what() -> None:
    for name, module in MODULES.items():
        plain = module.removeprefix("align_train.") if ".data." in module else module
        file = REPOSITORY / plain.replace(".", "/")
        file = file / "__main__.py" if file.is_dir() else file.with_suffix(".py")
        doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        assert re.match(rf"`python -m {re.escape(plain)}( .*)?`: \w.*", doc), name
