"""Learning rates come with the model's choice, for every optimizer that refers to them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from align_train.commands.changes import changed_settings
from align_train.config import rates
from align_train.config.check import check_root
from align_train.config.compose import compose_training, plain_settings, register
from align_train.config.saved import to_yaml
from align_train.config.schema import TrainSettings
from align_train.errors import UserError
from align_train.run.folder import RunFolder
from tests.support.settings import CONF, composed

# What a user has to say in any case.
PLACE = {"huggingface": ("model.path=x",), "classifier": ("model.path=x",)}

CHOICES = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))

# Optimizer -> by what it divides the rates.
DIVISORS = {"adamw": 1, "adafactor": 1, "ademamix": 1, "muon": 1, "lion": 10}

OWN = {
    "lamb": {"lr": 1e-3, "text_lr": None, "temperature_lr": None},
    "sgd": {"lr": 0.01, "text_lr": None, "temperature_lr": None},
    "timm": {"lr": 1e-3, "text_lr": None, "temperature_lr": 1e-3},
}


def rates_of(optimizer: dict[str, Any]) -> dict[str, Any]:
    return {name: optimizer[name] for name in ("lr", "text_lr", "temperature_lr")}


def test_the_demo_has_the_rates_that_it_always_had() -> None:
    assert rates_of(composed().optimizer) == {"lr": 4e-3, "text_lr": 1e-3, "temperature_lr": 1e-3}
    lion = composed("optimizer=lion").optimizer
    assert rates_of(lion) == {"lr": 4e-4, "text_lr": 1e-4, "temperature_lr": 1e-4}
    assert lion["head_lr"] is None and lion["projection_lr"] is None


@pytest.mark.parametrize("model", CHOICES)
def test_optimizers_take_the_rates_of_the_choice(model: str) -> None:
    brought = composed(f"model={model}", *PLACE.get(model, ())).rates
    for optimizer, divisor in DIVISORS.items():
        # As Hydra puts the two together; a composition of each would take a minute in all.
        file = OmegaConf.load(CONF / "optimizer" / f"{optimizer}.yaml")
        both: Any = OmegaConf.create({"rates": asdict(brought), "optimizer": file})
        found = both.optimizer

        assert found.lr == brought.image / divisor
        assert found.text_lr == brought.text / divisor
        assert found.temperature_lr == brought.temperature / divisor
        for own, rate in ((found.projection_lr, brought.projection), (found.head_lr, brought.head)):
            assert own == (None if rate is None else rate / divisor)


@pytest.mark.parametrize("optimizer", OWN)
def test_others_keep_rates_of_their_own(optimizer: str) -> None:
    found = composed("model=huggingface", "model.path=x", f"optimizer={optimizer}").optimizer
    assert rates_of(found) == OWN[optimizer]


def test_every_file_of_rates_goes_with_a_model() -> None:
    assert {path.stem for path in (CONF / "rates").glob("*.yaml")} <= set(CHOICES)


def test_trained_models_get_gentle_rates_and_so_do_their_temperatures() -> None:
    gentle = composed("model=huggingface", "model.path=x").rates
    assert max(gentle.image, gentle.text, gentle.temperature) <= 1e-4 and not gentle.projection
    joined = composed("model=by_name").rates
    assert joined.projection == joined.temperature == 10 * joined.image == 10 * joined.text


def test_an_experiment_brings_the_rates_of_its_model_and_may_set_its_own() -> None:
    words = ("experiment=finetune_retrieval", "model.path=x", "data.shards=x")
    own = composed(*words)
    assert own.optimizer["lr"] == 1e-5
    adamw = composed(*words, "optimizer=adamw", "optimizer.lr=${rates.image}")
    assert adamw.optimizer["lr"] == composed("model=huggingface", "model.path=x").rates.image


def test_the_command_line_wins() -> None:
    assert composed("optimizer.lr=2e-3").optimizer["lr"] == 2e-3
    assert composed("optimizer.lr=2e-3").optimizer["text_lr"] == 1e-3
    assert composed("rates.image=2e-3", "optimizer=lion").optimizer["lr"] == 2e-4
    assert composed("model=timm_base", "rates=tiny").rates == composed().rates


def test_a_users_own_model_has_the_usual_rates_or_those_beside_it(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("_target_: align_train.model.DualEncoder\n")
    words = [f"hydra.searchpath=['file://{tmp_path}']", "model=mine"]
    register("train", TrainSettings)
    usual = {"image": 1e-3, "text": 1e-3, "projection": None, "temperature": 1e-3, "head": None}
    assert plain_settings("train", words)["rates"] == usual

    (tmp_path / "rates").mkdir()
    (tmp_path / "rates" / "mine.yaml").write_text("text: 2e-4\n")
    assert plain_settings("train", words)["rates"] == usual | {"text": 2e-4}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer=lamb", "rates.image=1e-3"], "rates.image=1e-3: nothing reads it, because the"),
        (["optimizer=sgd", "rates.text=1e-3"], "set optimizer.text_lr=… instead"),
        (["optimizer=timm", "rates=tiny"], "rates=tiny: nothing reads it"),
        (["optimizer.lr=1e-3", "rates.image=1e-2"], "rates.image=1e-2: nothing reads it"),
        (["rates=tyni"], "rates=tyni: no such choice; there are "),
        (["rates.image=-1"], "rates.image=-1: expected a learning rate, 0 or more"),
        (["rates.text=nan"], "rates.text=nan: expected a learning rate, 0 or more"),
    ],
)
def test_rates_that_do_nothing_or_cannot_be_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        check_root(compose_training(*words))
    assert message in str(refused.value)


def test_a_users_optimizer_may_refer_to_them() -> None:
    words = ("optimizer=sgd", "optimizer.lr=${rates.image}", "rates.image=0.5")
    assert composed(*words).optimizer["lr"] == 0.5


def test_a_resume_tells_the_optimizers_rates_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.config.write_text(to_yaml(composed()))
    changes = changed_settings(folder, composed("rates.image=2e-3"), finished_steps=1)
    assert changes == {"optimizer.lr": (4e-3, 2e-3)}


def test_the_summary_says_when_rates_come_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "choice_of", {"model": "tiny", "rates": "tiny"}.get)
    assert rates.spell_rates(composed()) == ["these rates come with model=tiny"]
    assert rates.spell_rates(composed("optimizer=lion")) == [
        "these rates are a tenth of those that come with model=tiny"
    ]


@pytest.mark.parametrize(
    "word",
    [
        "optimizer=lamb",
        "optimizer=timm",
        "optimizer.lr=1e-3",
        "optimizer.image_lr=1e-3",
        "optimizer.projection_lr=1e-4",
        "rates.image=2e-3",
        "rates=b5_base",
    ],
)
def test_the_summary_claims_no_rates_that_the_run_has_not(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "choice_of", {"model": "tiny", "rates": "tiny"}.get)
    assert rates.spell_rates(composed(word)) == []
