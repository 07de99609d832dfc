"""A model that a run's settings name is looked for before torch is imported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from align_train.commands.early import look_before_training
from align_train.commands.named_models import look_for_models_of
from align_train.commands.prepare import build_model
from align_train.config.compose import compose_training
from align_train.errors import UserError, naming
from tests.support.commands import data_module

DATA = ("data=webdataset", "data.shards=x", "data.tokenizer=y")

# The last word names what is not there.
ABSENT = {
    "initial_weights=/nowhere": "no such folder; expected a run's folder",
    "initial_weights=nowhere": "no such folder; expected a run's folder",
    "distillation.model=/nowhere": "no such folder; expected a run's folder",
    "distillation.model=torn": "neither config.yaml nor config.json there",
    "distillation.model=ton": "no such folder, did you mean torn?; expected a run's folder",
    "distillation.model=shards": "shards, but neither config.yaml nor config.json there",
    "distillation.embeddings=torn": "no scores.json there; make it with align-train score",
    "model=huggingface model.path=/nowhere": "no such folder; expected a run's folder",
    "model=classifier model.path=~/nowhere": "no such folder; expected a run's folder",
    "model=by_name model.text_tower.name=./no": "no such file or folder; expected trained",
    "model=by_name model.image_tower.pretrained=torn/w": "no such file or folder; expected trained",
    "model.text_tower.pretrained=/no/w": "no such file or folder; expected trained weights",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("torn").mkdir()
    Path("shards").mkdir()
    Path("shards", "0.tar").touch()


@pytest.mark.parametrize("line", ABSENT)
def test_a_model_that_is_not_there_is_told_with_its_key(line: str) -> None:
    settings = compose_training(*DATA, *line.split())
    with pytest.raises(UserError, match=re.escape(f"{line.split()[-1]}: {ABSENT[line]}")):
        look_for_models_of(settings, begun=False)


@pytest.mark.parametrize(
    "line",
    [
        "initial_weights=owner/name",
        "distillation.model=owner/name",
        "model=by_name model.text_tower.name=bert-base-uncased",
        "model=by_name model.image_tower.name=hf_hub:timm/vit_tiny_patch16_224",
        "experiment=lit",
        # A user's own tower may mean anything by it.
        "model.text_tower._target_=mine.Tower model.text_tower.pretrained=s3://a/b/c",
    ],
)
def test_what_only_the_hub_or_a_class_knows_passes(line: str) -> None:
    look_for_models_of(compose_training(*DATA, *line.split()), begun=False)


def test_weights_that_a_run_began_with_may_be_gone() -> None:
    """Its teacher may not: each step asks it."""
    words = ("initial_weights=/nowhere", "model.text_tower.pretrained=/nowhere/else")
    look_for_models_of(compose_training(*DATA, *words), begun=True)
    with pytest.raises(UserError, match=r"distillation\.model=/nowhere: no such folder"):
        look_for_models_of(compose_training(*DATA, "distillation.model=/nowhere"), begun=True)


def test_a_run_looks_before_it_begins() -> None:
    with pytest.raises(UserError, match=r"distillation\.model=/nowhere: no such folder"):
        look_before_training(compose_training("distillation.model=/nowhere"))


@pytest.mark.parametrize(
    ("words", "fix"),
    [((), "set it to null or more"), (("initial_weights=a/b",), "take the tokenizer of a/b")],
)
def test_more_tokens_than_the_model_has_are_refused(
    words: tuple[str, ...], fix: str, demo: Path
) -> None:
    """Before trained weights are opened."""
    data = data_module(str(demo / "train"), demo / "tokenizer")
    settings = compose_training(*DATA, "model.vocabulary_size=259", *words)
    with pytest.raises(UserError, match=f"vocabulary_size=259: .* has 300 tokens; {fix}$"):
        build_model(settings, data, begun=False)


def test_an_error_names_the_setting_once() -> None:
    for told in ("torn: empty", "empty"):
        with pytest.raises(UserError, match=r"^key=torn: empty$"), naming("key", "torn"):
            raise UserError(told)
