"""The settings that the page of evaluators names beside each choice are that choice's."""

from __future__ import annotations

import shlex

from align_train.config.command_schema import EvaluateSettings
from align_train.config.compose import compose_command, register
from tests.support.commands import REPOSITORY
from tests.support.docs.settings import codes

PAGE = REPOSITORY / "docs" / "evaluation.md"


def choices() -> dict[str, list[str]]:
    """The choices of the table of evaluators, each with the settings that it has beside it.

    A row's settings are spelled for its first choice. A choice with another source of images,
    `knn_folders`, has the evaluator's key, `knn`.
    """
    found: dict[str, list[str]] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = line.strip()[1:-1].split("|")
        if not line.startswith("| `") or len(cells) != 3 or "`eval=`" in line:
            continue
        given = [word for code in codes(cells[2]) for word in shlex.split(code)]
        names = codes(cells[0])
        for name in names:
            found[name] = [
                word.replace(f"eval.{_key(names[0])}.", f"eval.{_key(name)}.") for word in given
            ]
    return found


def _key(name: str) -> str:
    return name.removesuffix("_folders").removesuffix("_shards")


def test_the_table_has_every_evaluator_but_those_of_one_experiment() -> None:
    files = {path.stem for path in (REPOSITORY / "conf" / "eval").glob("*.yaml")}

    assert choices().keys() == files - {"emoji_languages"}


def test_the_settings_beside_a_choice_are_all_that_it_needs() -> None:
    register("evaluate", EvaluateSettings, ("eval",))
    for name, given in choices().items():
        compose_command("evaluate", EvaluateSettings, "model=outputs/mine", f"eval={name}", *given)
