"""A setting that is a text arrives as it was typed; a word that cannot be read names its fault."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.errors import HydraException

from align_train.__main__ import main
from align_train.config.command_schema import EmbedSettings, SearchSettings
from align_train.config.compose import compose_command, compose_training
from align_train.config.messages import in_one_line
from align_train.config.overrides import line_as_typed
from align_train.config.saved import read_run, to_yaml
from align_train.config.schema import TrainSettings
from align_train.errors import UserError
from data.packing.settings import PackSettings
from tests.support.commands import REPOSITORY

# What YAML, Python or Hydra's grammar would take for something else.
TEXTS = (
    "2025_11_30",
    "6e23",
    "0.10",
    "+5",
    "12_000",
    "0x1F",
    "0o17",
    "True",
    "no",
    "inf",
    "1:30",
    "2025-11-30",
    "ほん",
    "the cat's",
    "two (2)",
    "a=b, c",
    "[1,2]",
    "{a}",
    "~",
    "é\u0301 🐈",
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_arrives_as_typed_and_is_read_back_equal(text: str, tmp_path: Path) -> None:
    settings = compose_training(f"name={text}", "accept=[batch_size,1e2]")
    assert settings.name == text
    assert settings.accept == ["batch_size", "1e2"]

    # A resume compares with what the run wrote down.
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(settings), encoding="utf-8")
    read = read_run(file)
    assert read.name == text
    assert read == settings


@pytest.mark.parametrize("key", ["epochs", "keep_before_spike", "logger"])
def test_a_run_of_before_a_setting_existed_has_null(key: str, tmp_path: Path) -> None:
    settings = compose_training()
    lines = to_yaml(settings).splitlines()
    file = tmp_path / "config.yaml"
    file.write_text("\n".join(line for line in lines if not line.startswith(f"{key}:")))
    expected = replace(settings)
    setattr(expected, key, None)
    assert read_run(file) == expected

    file.write_text("model: {}\n")
    with pytest.raises(UserError, match="not the settings of a run"):
        read_run(file)


def test_one_text_is_a_list_and_a_new_key_of_a_mapping_needs_no_plus() -> None:
    words = ("source=x", "to=y", "text=caption", "where.split=train", "where.year=2_000")
    packing = compose_command("pack", PackSettings, *words)
    assert packing.text == ["caption"]
    assert packing.where == {"split": "train", "year": "2_000"}

    options = ("model=x", "shards=x", "to=y", "storage_options.anon=true")
    assert compose_command("embed", EmbedSettings, *options).storage_options == {"anon": True}
    assert compose_training("accept=data.shards").accept == ["data.shards"]
    # The keys of a component are known by its class: a misspelt one stays an error.
    with pytest.raises(HydraException):
        compose_training("model.image_tower.widht=2")


def test_the_length_that_is_typed_takes_the_place_of_the_others() -> None:
    def lengths(*words: str) -> tuple[object, ...]:
        settings = compose_training(*words)
        return settings.max_steps, settings.max_pairs, settings.epochs

    assert lengths("epochs=0.5") == (None, None, 0.5)
    assert lengths("experiment=emoji", "epochs=3") == (None, None, 3.0)
    assert lengths("max_pairs=1280") == (None, 1280, None)
    assert lengths("max_steps=null", "max_pairs=1280") == (None, 1280, None)
    assert lengths("max_steps=7", "epochs=null") == (7, None, None)


def test_the_size_of_images_sets_that_before_the_crop() -> None:
    def sizes(*words: str) -> tuple[object, object]:
        model = compose_training("data.tokenizer=x", *words).model
        return model["image_size"], model["resize_size"]

    assert sizes("model=b7_base") == (289, 346)
    assert sizes("model=b3_mini", "model.image_size=475") == (475, 569)
    assert sizes("model=tiny", "model.image_size=224") == (224, 252)
    assert sizes("model.image_size=224", "model.resize_size=230") == (224, 230)


def test_lists_and_mappings_of_texts_arrive_as_typed() -> None:
    given = ("model=~/x", "to=0.50", "shards=[~/a,2025_11_30,1e2,'b,c']")
    embedding = compose_command("embed", EmbedSettings, *given)
    assert embedding.shards == ["~/a", "2025_11_30", "1e2", "b,c"]
    assert (embedding.model, embedding.to) == ("~/x", "0.50")

    words = ("source=x", "to=y", "text=[1e2,b]", "where.year=2_000", "+where.code=[007,1.0]")
    packing = compose_command("pack", PackSettings, *words)
    assert packing.text == ["1e2", "b"]
    assert packing.where == {"year": "2_000", "code": ["007", "1.0"]}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.tokenizer=6e23", "6e23"),
        ("data.held_out=2025_11_30", "2025_11_30"),
        ("data.shards=[0.10,~/x,ほん]", ["0.10", "~/x", "ほん"]),
        ("data.shards=/a/{00..10}.tar", "/a/{00..10}.tar"),
        ("data.make.folder=12_000", "12_000"),
        ("optimizer.lr=1e-3", 1e-3),
        ("data.window=8_192", 8192),
        ("data.flip=True", True),
        ("+logger.wandb.group=2025_11_30", "2025_11_30"),
        ("logger.wandb.project=6e23", "6e23"),
    ],
)
def test_components_get_texts_where_their_signature_says_so(
    override: str, expected: object
) -> None:
    value: object = compose_training("logger=wandb", override)
    for name in override.partition("=")[0].lstrip("+").split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    assert value == expected
    assert type(value) is type(expected)


def test_a_component_is_known_beside_words_that_hydra_would_refuse() -> None:
    data = compose_training("data.shards=~/x", "name=ほん", "data.tokenizer=2025_11").data
    assert data["tokenizer"] == "2025_11"


def test_quotes_references_and_null_keep_their_meaning() -> None:
    assert compose_training("name='6e23'").name == "6e23"
    assert compose_training('name="null"').name == "null"
    assert compose_training("name=run-${seed}", "seed=7").name == "run-7"
    assert compose_training("initial_weights=null").initial_weights is None
    with pytest.raises(HydraException) as caught:
        compose_training("name=null")
    assert in_one_line(caught.value) == "name=null: expected a value, not null"


@pytest.mark.parametrize(
    "text", [*TEXTS, "\"a\" and 'b'", "${index} \\${x} \\", " a\n", "it's, ok"]
)
def test_the_text_of_a_search_is_taken_verbatim(text: str) -> None:
    assert compose_command("search", SearchSettings, "index=x", f"text={text}").text == text


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("batch_size=(3", "( has a meaning of its own there.*write 'batch_size=\"(3\"'"),
        ("seed=[1,2", "a bracket is open"),
        ("optimizer.lr=1=2", "= has a meaning of its own there"),
        ("seed=1 'a'", "' has a meaning of its own there"),
        ("batch_size=1,2", "parts the values of a sweep, which wants --multirun"),
        ("größe=3", "größe: no such setting"),
        ("dog", "dog: expected key=value; a text with spaces wants quotes"),
    ],
)
def test_a_word_that_cannot_be_read_names_the_character(word: str, words: str) -> None:
    with pytest.raises(UserError, match=words.replace("(", r"\(").replace("[", r"\[")):
        compose_training(word)


@pytest.mark.parametrize("word", ["seed=1\r", "--help\r", "text=a dog\r", "\r"])
def test_windows_line_ends_are_named(word: str) -> None:
    with pytest.raises(UserError, match="carriage return, as in a script from Windows") as caught:
        line_as_typed(["align_train", "name=x", word], TrainSettings, lambda _: {})
    assert "\r" not in str(caught.value)


def test_a_real_command_line_sweeps_texts_and_refuses_windows(tmp_path: Path) -> None:
    """Hydra parts a sweep itself, and parses each part once more."""
    code = (
        "from align_train.config.command import command\n"
        "from align_train.config.command_schema import ShowSettings\n"
        "command(lambda settings: print(repr(settings.name)), config_name='show',\n"
        "        schema=ShowSettings)\n"
    )

    def started(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            text=True,
            check=False,
        )

    done = started("-m", "name=2025_11_30,6e23,ほん")
    assert done.stdout.split() == ["'2025_11_30'", "'6e23'", r"'\u307b\u3093'"], done.stderr

    assert started("-m", "name=x", "limit=range(1,3)").stdout.split() == ["'x'", "'x'"]

    done = started("name=x\r")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "name=x: the line ends with a carriage return" in done.stderr


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--hlep", "--hlep: no such option, did you mean --help?"),
        ("--batch-size=32", "--batch-size: no such option; settings have no dashes: batch_size=…"),
        ("--cfg", "argument --cfg/-c: expected one argument; --help explains the settings"),
    ],
)
def test_an_option_that_does_not_exist_is_one_line(
    option: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["align_train", "max_steps=1", option])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == f"align_train: {line}\n"
