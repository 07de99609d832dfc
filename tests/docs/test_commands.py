"""Every command in README and docs is one that works."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.support.commands import made_once
from tests.support.docs.pages import LANGUAGES, Page, pages
from tests.support.docs.playing import Player
from tests.support.docs.rules import python_error, rule_of
from tests.support.docs.shell import commands_of
from tests.support.docs.world import copy_of, make_world

PAGES = pages()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_known_and_its_settings_compose(page: Page, tmp_path: Path) -> None:
    write_files(page, tmp_path)

    wrong: list[str] = []
    for command in commands_of(page, tmp_path):
        rule = rule_of(command)
        error = "no rule of tests/support/docs/rules.py knows it"
        if rule is not None:
            error = rule.error(command, tmp_path)
        if error:
            wrong.append(f"{command}\n    {error}")
    assert not wrong, "\n".join(["", *wrong])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_has_a_language_and_can_be_read(page: Page) -> None:
    wrong: list[str] = []
    for block in page.blocks():
        error = ""
        if block.language not in LANGUAGES:
            error = f"```{block.language}: expected one of {', '.join(LANGUAGES)}"
        elif block.language == "python":
            error = python_error(block.text)
        elif block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "json":
            json.loads(block.text)
        if error:
            wrong.append(f"{page.name}:{block.line}: {error}")
    assert not wrong, "\n".join(["", *wrong])


def write_files(page: Page, folder: Path) -> None:
    """Writes the blocks of a page that are files, as its reader would."""
    for block in page.blocks():
        if block.file is not None:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "docs_world", make_world)


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_runs(page: Page, world: Path, tmp_path: Path) -> None:
    own = copy_of(world, tmp_path)
    player = Player(page, own, tmp_path)
    player.play()
    shutil.rmtree(own)  # pytest would keep it
    assert not player.failures, "\n".join(["", *player.failures])
