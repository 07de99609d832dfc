"""`--help`: every setting has a meaning, and every choice of a group says for what it is."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore

from align_train.commands.line import MODULES
from align_train.config import compose
from align_train.config.help import Help
from align_train.config.meanings import groups_of, read_comments
from align_train.config.plan_schema import PlanSettings
from align_train.config.schema import TrainSettings, conf_dir
from tests.support.commands import finish, run, start

GROUPS = groups_of(conf_dir() / "train.yaml")
OF_PLANS = groups_of(conf_dir() / "plan.yaml")

A_TREE = {"a": "of a", "a.b": "of b", "a.c": "of c"}


@pytest.fixture(autouse=True)
def own_groups() -> Iterator[None]:
    """Groups that a command registers with Hydra would stay for the tests after these."""
    yield
    for group in OF_PLANS:
        ConfigStore.instance().repo.pop(group, None)


def help_of(root: str, schema: type, groups: Sequence[str], *words: str) -> Help:
    compose.register(root, schema, groups if compose.folder_of(root) else ())
    file = conf_dir() / compose.folder_of(root) / f"{root}.yaml"
    return Help(file, partial(compose.plain_settings, root), words, groups=groups)


def without_meaning(shown: Help) -> list[str]:
    settings = shown.settings()
    assert len(settings) >= 3
    return [row.key for row in settings if row.value is not None and not row.meaning]


@pytest.mark.parametrize("name", MODULES)
def test_every_setting_of_every_command_has_a_meaning(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = []

    def command(
        task: object, *, config_name: str, schema: type, groups: Sequence[str] = (), **_: object
    ) -> None:
        groups = {"train": GROUPS, "plan": OF_PLANS}.get(name, groups)
        missing.append(without_meaning(help_of(config_name, schema, groups)))

    monkeypatch.setattr("align_train.config.command.command", command)
    # Python warns if a module is imported and run too.
    monkeypatch.delitem(sys.modules, "align_train.__main__", raising=False)
    runpy.run_module(MODULES[name], run_name="__main__", alter_sys=True)
    assert missing == [[]]


def test_every_setting_of_every_choice_has_a_meaning() -> None:
    """Each composition takes one more choice of every group."""
    files = {group: sorted((conf_dir() / group).glob("*.yaml")) for group in GROUPS}
    for row in range(max(map(len, files.values()))):
        words = [f"{group}={choices[row % len(choices)].stem}" for group, choices in files.items()]
        assert not without_meaning(help_of("train", TrainSettings, GROUPS, *words)), words


def test_every_group_of_conf_belongs_to_training_or_to_a_plan() -> None:
    folders = {path.parent.name for path in conf_dir().glob("*/*.yaml")} - {"commands"}
    assert set(OF_PLANS) == folders
    assert set(GROUPS) == folders - {"gpu"}


def test_a_plans_own_settings_come_before_those_of_a_run() -> None:
    rows = help_of("plan", PlanSettings, OF_PLANS, "gpu=a100").settings()
    keys = [row.key for row in rows]
    assert max(keys.index("gpu.efficiency.link"), keys.index("nodes")) < keys.index("batch_size")
    assert ("gpu.memory_gb", "80") in [(row.key, row.value) for row in rows]
    assert not [row.key for row in rows if row.value is not None and not row.meaning]


def test_every_choice_of_a_group_is_listed_and_says_for_what_it_is() -> None:
    text = help_of("train", TrainSettings, GROUPS, "model=b7_base").text("")
    for group in GROUPS:
        for file in (conf_dir() / group).glob("*.yaml"):
            mark = r"\*" if (group, file.stem) == ("model", "b7_base") else "[ *]"
            assert re.search(rf"^  {mark} {file.stem}\b", text, re.MULTILINE), file
            assert read_comments(file).header, file
    assert "model.image_tower.width=2.0" in text
    flat = " ".join(text.split())
    assert re.search(r"EfficientNet-B3 and BERT-mini.*?10\.3 M.*?0\.35 GB", flat)
    assert "model.resize_size=346" in text and re.search(r"  precision=(bf16|fp32) ", text)
    assert "${if_gpu" not in text and "${scaled" not in text
    assert max(map(len, text.splitlines())) <= 150  # a value is never broken


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ('a: "x # y"  # of a', {"a": "of a"}),
        ("a: 1  # first\n      # second\nb: 2", {"a": "first second"}),
        ("# of the file\na: 1\n\n# above b\nb: [1, 2]", {"b": "above b"}),
        ("a:  # of a\n  b: null  # of b\n  # above c\n  c: {d: 1}  # of c", A_TREE),
    ],
)
def test_a_comment_belongs_to_its_key(yaml: str, expected: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(yaml)
    assert read_comments(file).of_keys == expected


def test_help_of_a_part_of_a_users_own_choice(tmp_path: Path) -> None:
    """`--config-dir`: a user's own files are choices, and their comments are meanings."""
    (tmp_path / "conf" / "loss").mkdir(parents=True)
    (tmp_path / "conf" / "loss" / "mine.yaml").write_text(
        "# Attraction alone.\n_target_: mine.Loss\npull: 2  # how strongly\n"
    )
    words = ("--config-dir", "conf", "loss=mine", "--help", "loss")
    done = run(*words, cwd=tmp_path, forked=False)
    assert re.search(r"^  \* mine +Attraction alone\.$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^  loss\.pull=2 +how strongly$", done.stdout, re.MULTILINE)
    assert "data.shards" not in done.stdout

    done = finish(start("--help", "lozz", cwd=tmp_path, forked=False))
    assert (done.returncode, done.stdout) == (2, "")
    assert "lozz: no such setting, did you mean loss?" in done.stderr
