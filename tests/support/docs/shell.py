"""Which commands a page's scripts run: bash says so, and runs none of them.

All blocks of a page are one script, each at its own line. Bash expands variables, loops and quotes.
Its path is empty, so every program is a command that it does not find, and the handler for these
writes down the words.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.docs.pages import SHELL, Block, Inline, Page

_RECORD = r"""
command_not_found_handle() {
    {
        printf '%s\0' "${BASH_LINENO[-2]:-0}" "$#" "$@"
        for name in $(compgen -e); do printf '%s=%s\0' "$name" "${!name}"; done
        printf '\1\0'
    } >> "$RECORD"
}
cd() { command_not_found_handle cd "$@"; }
source() { command_not_found_handle source "$@"; }
.() { command_not_found_handle . "$@"; }
"""

# Programs by path: without a function of this name bash would look for the file.
_PROGRAM_BY_PATH = re.compile(r"(?<![\w=:/.-])\.?\w[\w.-]*/[\w./-]+(?=\s|$)", re.MULTILINE)

_NOT_OF_PAGE = {"PWD", "OLDPWD", "SHLVL", "_", "RECORD", "PATH", "HOME"}


@dataclass(frozen=True)
class Command:
    """A command of a page, as bash would run it.

    Attributes:
        page: The page's path in the repository.
        line: The page's line; of a command of several lines one of them.
        words: The program and its arguments.
        environment: The variables that the page gives it.
        inline: It stands within a text, where it may be shortened.
    """

    page: str
    line: int
    words: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    inline: bool = False

    def __str__(self) -> str:
        text = " ".join(self.words)
        return f"{self.page}:{self.line}: {text if len(text) < 90 else text[:88] + ' …'}"


def script_of(page: Page) -> str:
    """All blocks of shell of a page, each at the page's own lines."""
    return "\n".join(_at_their_lines(page.blocks()))


def commands_of(page: Page, folder: Path) -> list[Command]:
    """The commands of a page's blocks and texts, from top to bottom.

    Args:
        page: The page.
        folder: An empty one, for files that a script redirects to.

    Raises:
        AssertionError: Bash cannot read a block.
    """
    blocks = _traced(page.name, script_of(page), folder)
    inline: list[Command] = []
    for one in page.inline():
        inline += _inline_commands(page.name, one, folder)
    return sorted([*blocks, *inline], key=lambda command: command.line)


def functions_of(script: str) -> str:
    """Bash functions for the programs that a script names by a path."""
    names = sorted(set(_PROGRAM_BY_PATH.findall(script)))
    return "\n".join(f'{name}() {{ command_not_found_handle {name} "$@"; }}' for name in names)


def _at_their_lines(blocks: Sequence[Block]) -> list[str]:
    lines: list[str] = []
    for block in blocks:
        if block.language in SHELL:
            lines += [""] * (block.line - 1 - len(lines))
            lines += block.text.splitlines()
    return lines


def _inline_commands(page: str, one: Inline, folder: Path) -> list[Command]:
    """The commands of a text, `… and so on` and placeholders left in."""
    traced = _traced(page, one.text, folder)
    return [Command(page, one.line, found.words, found.environment, True) for found in traced]


def _traced(page: str, script: str, folder: Path) -> list[Command]:
    record = folder / "record"
    record.unlink(missing_ok=True)
    record.touch()

    # The functions come by a file of their own, so that lines are the page's.
    functions = folder / "functions"
    functions.write_text(_RECORD + functions_of(script))
    file = folder / "script"
    file.write_text(script)
    done = subprocess.run(
        ["/bin/bash", "--norc", "--noprofile", str(file)],
        stdin=subprocess.DEVNULL,
        env={
            "HOME": str(folder),
            "PATH": "/nowhere",
            "RECORD": str(record),
            "BASH_ENV": str(functions),
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    complaints = done.stderr.replace(f"{file}: line ", f"{page}:").strip()
    assert not complaints, complaints
    return _read_record(page, record.read_bytes().decode())


def _read_record(page: str, text: str) -> list[Command]:
    commands: list[Command] = []
    for one in text.split("\1\0")[:-1]:
        line, count, *rest = one.split("\0")[:-1]
        words = tuple(rest[: int(count)])
        variables = dict(pair.split("=", 1) for pair in rest[int(count) :])
        own = {name: value for name, value in variables.items() if name not in _NOT_OF_PAGE}
        own.pop("BASH_ENV", None)
        commands.append(Command(page, int(line), words, own))
    return commands
