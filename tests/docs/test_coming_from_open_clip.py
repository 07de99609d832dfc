"""The page for users of open_clip names every flag of open_clip 3.3, and settings that exist.

`open_clip_flags.txt` has the options of `open_clip_train.params.parse_args` of open_clip_torch
3.3.0, one a line.
"""

from __future__ import annotations

import re
import shlex
from itertools import chain
from pathlib import Path

import pytest

from align_train.config.check import check_root
from align_train.config.command_schema import EvaluateSettings
from align_train.config.compose import compose_command, compose_training, register
from data.packing.settings import PackSettings
from tests.support.commands import REPOSITORY

PAGE = REPOSITORY / "docs" / "coming_from_open_clip.md"
FLAGS = Path(__file__).with_name("open_clip_flags.txt")

_FLAG = re.compile(r"`(--[\w-]+)`")
_CODE = re.compile(r"`([^`]+)`")
_SETTING = re.compile(r"\+?[a-z]\w*(\.\w+)*=\S+")


def rows() -> list[tuple[str, str]]:
    """The rows of the tables of flags: the cell of the flags, and the cell of our settings."""
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = line.strip("|").split(" | ")
        if line.startswith("| `--") and len(cells) == 2:
            found.append((cells[0], cells[1]))
    return found


def settings() -> list[list[str]]:
    """The settings that stand together, as words of a shell."""
    found = []
    for _, cell in rows():
        for code in _CODE.findall(cell):
            words = shlex.split(code)
            if any(_SETTING.fullmatch(word) for word in words):
                found.append(words)
    return found


def together(several: list[list[str]]) -> list[list[str]]:
    """As few command lines as possible, in which no two codes of the page set the same part."""
    lines: list[dict[str, list[str]]] = []
    for words in several:
        parts = {re.split(r"[.=]", word.lstrip("+"))[0] for word in words}
        parts = {"optimizer" if part == "rates" else part for part in parts}  # one reads the other
        free = next((line for line in lines if not parts & line.keys()), None)
        if free is None:
            free = {}
            lines.append(free)
        for part in parts:
            free[part] = []
        free[min(parts)] = words

    return [list(chain.from_iterable(line.values())) for line in lines]


TRAINING = [words for words in settings() if "=" in words[0]]
OTHERS = [words for words in settings() if "=" not in words[0]]


def test_the_page_has_every_flag_of_open_clip_once() -> None:
    named = [flag for cell, _ in rows() for flag in _FLAG.findall(cell)]

    assert sorted(named) == sorted(FLAGS.read_text(encoding="utf-8").split())


def test_each_row_says_a_setting_or_that_there_is_none() -> None:
    silent = []
    for flags, cell in rows():
        says_why = cell.startswith(("—", "no setting"))
        has_setting = any("=" in code for code in _CODE.findall(cell))
        if not (says_why or has_setting):
            silent.append(flags)

    assert not silent
    assert len(TRAINING) > 60


@pytest.mark.parametrize("words", together(TRAINING), ids=" ".join)
def test_every_setting_of_the_page_composes(words: list[str]) -> None:
    free = [] if any(word.startswith("chunk_size=") for word in words) else ["chunk_size=16"]

    check_root(compose_training("norm_group=null", *free, *words))


@pytest.mark.parametrize("words", OTHERS, ids=" ".join)
def test_settings_of_other_commands_compose(words: list[str]) -> None:
    if words[0] == "data.pack":
        compose_command("pack", PackSettings, *words[1:])
    else:
        assert words[0] == "evaluate"
        register("evaluate", EvaluateSettings, ("eval",))
        compose_command("evaluate", EvaluateSettings, *words[1:])
