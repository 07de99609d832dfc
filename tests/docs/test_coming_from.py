"""The pages for users of open_clip and of Hugging Face name flags and settings that exist.

`open_clip_flags.txt` has the options of `open_clip_train.params.parse_args` of open_clip_torch
3.3.0, one a line.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from transformers import TrainingArguments

from align_train.config.check import check_root
from align_train.config.command_schema import EvaluateSettings, ExportSettings
from align_train.config.compose import compose_command, compose_training, register
from data.packing.settings import PackSettings
from tests.support.commands import REPOSITORY
from tests.support.docs.settings import codes, rows, settings, together

OPEN_CLIP = REPOSITORY / "docs" / "coming_from_open_clip.md"
HUGGING_FACE = REPOSITORY / "docs" / "coming_from_hugging_face.md"
PAGES = (OPEN_CLIP, HUGGING_FACE)

FLAGS = Path(__file__).with_name("open_clip_flags.txt")

TRAINING = [
    words for page in PAGES for words in together([w for w in settings(page) if "=" in w[0]])
]
OTHERS = [words for page in PAGES for words in settings(page) if "=" not in words[0]]


def test_the_page_has_every_flag_of_open_clip_once() -> None:
    named = [code for cell, _ in rows(OPEN_CLIP) for code in codes(cell)]

    assert sorted(named) == sorted(FLAGS.read_text(encoding="utf-8").split())


def test_the_page_names_arguments_that_the_trainer_has() -> None:
    named = {code for cell, _ in rows(HUGGING_FACE) for code in codes(cell)}

    assert len(named) > 40
    assert named <= {field.name for field in fields(TrainingArguments)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_row_says_a_setting_or_that_there_is_none(page: Path) -> None:
    silent = []
    for names, cell in rows(page):
        says_why = cell.startswith(("—", "no setting"))
        has_setting = any("=" in code for code in codes(cell))
        if not (says_why or has_setting):
            silent.append(names)

    assert not silent


@pytest.mark.parametrize("words", TRAINING, ids=" ".join)
def test_every_setting_of_a_page_composes(words: list[str]) -> None:
    chosen = any(word.startswith("chunk_size=") for word in words)
    fitting = [] if chosen else ["chunk_size=16"]  # trainer.devices=8 wants it small

    check_root(compose_training("norm_group=null", *fitting, *words))


@pytest.mark.parametrize("words", OTHERS, ids=" ".join)
def test_settings_of_other_commands_compose(words: list[str]) -> None:
    command, *given = words
    if command == "data.pack":
        compose_command("pack", PackSettings, *given)
    elif command == "export":
        compose_command("export", ExportSettings, *given)
    else:
        assert command == "evaluate"
        register("evaluate", EvaluateSettings, ("eval",))
        compose_command("evaluate", EvaluateSettings, *given)
