"""The pages that a reader sees, cut into blocks of code and commands within a line."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from tests.support.commands import REPOSITORY

# Beside docs/; of these a page that is not there is no error.
_OTHER_PAGES = ("README.md", "CONTRIBUTING.md", "data/README.md", "launch/README.md")

SHELL = ("sh", "bash")
LANGUAGES = (*SHELL, "python", "yaml", "json", "toml", "text", "dockerfile", "bibtex", "html")

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+|~~~+) *(?P<language>[^`\s]*)")

# A command of ours between backticks.
_INLINE = re.compile(
    r"`((?:\S*python3? -m (?:align_train|data\.|benchmarks)|align-train(?= |`))[^`]*)`"
)

# The first word of an indented block that is a script: while pages are rewritten, some have these.
_BEGINS_SCRIPT = re.compile(
    r"(\S*python3?|\S*align-train|make|sbatch|torchrun|pip|docker|apptainer|kubectl|sky|hf|curl"
    r"|tail|for|mpirun|git|launch/\S+|benchmarks/\S+|[A-Z_]+=\S*)(?= |$)"
)

# A block that is a file says so in its first line, e.g. `# mine/losses.py: why`.
_FILE = re.compile(r"^# (?P<path>[\w/.-]+\.(?:py|ya?ml|txt|json|toml))\b")


@dataclass(frozen=True)
class Block:
    """Code of a page.

    Attributes:
        line: The page's line of its first one.
        language: As its fence says; empty for a fence that says none.
        text: Without what the page indents it by.
    """

    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The path that the block's first line gives; None: the block is no file."""
        found = _FILE.match(self.text)
        return found["path"] if found and self.language in ("python", "yaml", "text") else None


@dataclass(frozen=True)
class Inline:
    """A command of ours within a line of text."""

    line: int
    text: str


@dataclass(frozen=True)
class Page:
    """A page of Markdown.

    Attributes:
        name: Its path in the repository.
    """

    name: str

    @property
    def path(self) -> Path:
        return REPOSITORY / self.name

    def lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines()

    def blocks(self) -> list[Block]:
        """Fenced blocks and indented ones that are scripts, from top to bottom."""
        return _blocks(self.lines())

    def inline(self) -> list[Inline]:
        """Commands of ours between backticks, outside blocks."""
        lines = self.lines()
        inside = {
            number
            for block in self.blocks()
            for number in range(block.line, block.line + len(block.text.splitlines()))
        }
        return [
            Inline(number, found[1].replace("\\|", "|"))
            for number, line in enumerate(lines, 1)
            if number not in inside
            for found in _INLINE.finditer(line)
        ]


def pages() -> list[Page]:
    """All pages that have to be right."""
    others = [name for name in _OTHER_PAGES if (REPOSITORY / name).is_file()]
    docs = sorted((REPOSITORY / "docs").rglob("*.md"))
    return [Page(name) for name in [*others, *(str(p.relative_to(REPOSITORY)) for p in docs)]]


def _blocks(lines: list[str]) -> list[Block]:
    blocks: list[Block] = []
    number = 0
    while number < len(lines):
        if fence := _FENCE.match(lines[number]):
            end = _end_of_fence(lines, number, fence["fence"])
            inside = lines[number + 1 : end]
            blocks.append(Block(number + 2, fence["language"], _dedented(inside)))
            number = end + 1
        elif _begins_indented(lines, number):
            end = _end_of_indented(lines, number)
            text = _dedented(lines[number:end])
            if _is_script(text):
                blocks.append(Block(number + 1, "sh", text))
            number = end
        else:
            number += 1
    return blocks


def _end_of_fence(lines: list[str], begin: int, fence: str) -> int:
    for number in range(begin + 1, len(lines)):
        if lines[number].strip() == fence:
            return number
    return len(lines)


def _begins_indented(lines: list[str], number: int) -> bool:
    follows_blank = number == 0 or not lines[number - 1].strip()
    return follows_blank and lines[number].startswith("    ")


def _end_of_indented(lines: list[str], begin: int) -> int:
    for number in range(begin, len(lines)):
        if not lines[number].startswith("    "):
            return number
    return len(lines)


def _dedented(lines: list[str]) -> str:
    return textwrap.dedent("\n".join(lines))


def _is_script(text: str) -> bool:
    code = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return bool(code) and _BEGINS_SCRIPT.match(code[0]) is not None
