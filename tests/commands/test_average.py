"""Weights averaged and mixed: end models bit for bit, statistics anew, and the curve of mixes."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import align_train
from align_train.commands.average import average
from align_train.commands.average_choice import look_before_averaging
from align_train.config.command_schema import AverageSettings
from align_train.config.schema import conf_dir
from align_train.errors import UserError
from align_train.model.mixing import between, mean_of
from align_train.pretrained.identity import unread
from align_train.pretrained.open import open_pretrained
from align_train.run.folder import RunFolder
from align_train.stream.batch import normalise
from align_train.training.fresh_statistics import renew_statistics

OURS = "align_train"  # a format that has the model's own tensors and no others
LINE = "retrieval/image_to_text/recall@1"


def settings_of(models: Any, to: Path, **given: Any) -> AverageSettings:
    """As the command line would give them."""
    text = (conf_dir() / "commands" / "average.yaml").read_text()
    defaults = yaml.safe_load(text) | {"eval": None, "models": models, "to": str(to)}
    names = [field.name for field in fields(AverageSettings)]
    return AverageSettings(**{name: (defaults | given)[name] for name in names})


def averaged(models: Any, to: Path, **given: Any) -> dict[str, Tensor]:
    """The weights that the command writes, after it has looked at its settings."""
    settings = settings_of(models, to, **given)
    look_before_averaging(settings)
    average(settings)
    return state_of(to)


def state_of(path: Path) -> dict[str, Tensor]:
    return open_pretrained(str(path)).build().state_dict()


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.fixture
def steps(trained: Path) -> tuple[Path, Path]:
    """Two checkpoints of one run, which has BatchNorm, a temperature and a counter of steps."""
    folder = RunFolder(trained)
    return folder.checkpoint_of(8), folder.checkpoint_of(12)


def test_a_model_averaged_with_itself_is_itself_bit_for_bit(
    steps: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [str(steps[0])] * 3
    ours = averaged(models, tmp_path / "same", format=OURS)
    assert_equal(ours, state_of(steps[0]))
    assert "BatchNorm layers are averages too; train_shards=… computes them" in (
        capsys.readouterr().out
    )


def test_checkpoints_of_a_run_are_averaged_tensor_by_tensor(
    trained: Path, steps: tuple[Path, Path], tmp_path: Path
) -> None:
    """Hugging Face's format, since it fits; the temperature is averaged as all others."""
    ours = averaged(str(trained), tmp_path / "mean", steps="last_2")
    states = [state_of(step) for step in steps]
    for name, value in ours.items():
        if unread(name):
            continue  # Hugging Face's format has a layer more
        first, second = (state[name] for state in states)
        if value.is_floating_point():
            expected = ((first.double() + second.double()) / 2).float()
            assert torch.equal(value, expected), name
            assert not torch.equal(first, second) or name.endswith("bias"), name
    assert 0 < float(ours["temperature.value"]) < 1
    assert (tmp_path / "mean" / "config.json").exists()
    card = (tmp_path / "mean" / "README.md").read_text()
    assert "step-00000008.ckpt" in card and "step-00000012.ckpt" in card
    # It is a model like any other.
    assert align_train.load(str(tmp_path / "mean")).temperature == ours["temperature.value"]


def test_the_ends_of_the_line_between_two_models_are_these_models(
    steps: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = (state_of(step) for step in steps)
    assert_equal(between(first, second, 0), first)
    assert_equal(between(first, second, 1), second)
    signed = {"zeros": torch.tensor([-0.0, 0.0])}
    mixed = between(signed, {"zeros": torch.ones(2)}, 0)["zeros"]
    assert torch.equal(mixed.signbit(), signed["zeros"].signbit())

    ours = averaged([str(step) for step in steps], tmp_path / "half", mix=0.25, format=OURS)
    for name, value in ours.items():
        if value.is_floating_point():
            expected = 0.75 * first[name].double() + 0.25 * second[name].double()
            assert torch.equal(value, expected.float()), name


def test_means_in_half_precision_and_of_counters() -> None:
    halves = [
        {"w": torch.tensor([1.0, 2.0]).bfloat16(), "n": torch.tensor(step)} for step in (3, 9)
    ]
    mean = mean_of([*halves, {"w": torch.tensor([4.0, 2.0]).bfloat16(), "n": torch.tensor(1)}])
    assert mean["w"].dtype == torch.bfloat16 and mean["w"].tolist() == [2.0, 2.0]
    assert int(mean["n"]) == 3


def test_new_statistics_are_those_of_a_plain_pass(steps: tuple[Path, Path]) -> None:
    """PyTorch's own BatchNorm in training mode, a norm group at a time, in float64."""
    generator = torch.Generator().manual_seed(0)
    groups = [
        torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8, generator=generator)
        for _ in range(5)
    ]
    model = open_pretrained(str(steps[0])).build()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    plain = open_pretrained(str(steps[0])).build().double()
    norms = [layer for layer in plain.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        norm.train()
        norm.momentum = None  # a cumulative mean, as SWA's update_bn has it
        norm.reset_running_stats()
    for group in groups:
        plain.encode_image(normalise(group, plain, torch.float64))
    expected = plain.state_dict()

    assert renew_statistics(model, groups) == len(groups)
    assert not model.training
    for name, value in model.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-6)
            assert not torch.equal(value, before[name]), name
        elif "num_batches" not in name:
            assert torch.equal(value, before[name]), name


def test_the_statistics_of_a_locked_tower_stay(steps: tuple[Path, Path]) -> None:
    pretrained = open_pretrained(str(steps[0]))
    pretrained.node["lock"] = "image"
    model = pretrained.build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    renew_statistics(model, [torch.zeros(4, 32, 32, 3, dtype=torch.uint8)])
    assert_equal(model.state_dict(), before)


def test_the_command_computes_statistics_from_training_pairs(
    steps: tuple[Path, Path], demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [str(step) for step in steps]
    plain = averaged(models, tmp_path / "plain", format=OURS)
    capsys.readouterr()
    fresh = averaged(
        models,
        tmp_path / "fresh",
        train_shards=str(demo / "train"),
        train_pairs=100,
        workers=0,
        format=OURS,
    )
    assert "are computed anew, from 12 norm groups of 8" in capsys.readouterr().out
    for name, value in fresh.items():
        moves = "running" in name or "num_batches" in name
        assert moves != torch.equal(value, plain[name]), name


def test_a_sweep_of_mixes_has_a_table_a_picture_and_the_best_model(
    steps: tuple[Path, Path], demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [str(step) for step in steps]
    folder = tmp_path / "sweep"
    retrieval = {"_target_": "align_train.evals.Retrieval", "recall_at": [1, 5], "data": None}
    ours = averaged(
        models,
        folder,
        mix=[0, 0.5, 1],
        keep=f"old/{LINE}",
        format=OURS,
        shards={"old": str(demo / "held_out"), "new": str(demo / "train" / "00000000.tar")},
        eval={"retrieval": retrieval},
        workers=0,
    )
    with (folder / "mixes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["mix"] for row in rows] == ["0.0", "0.5", "1.0"]
    assert (folder / "mixes.png").stat().st_size > 1000

    # The ends are the end models, as `evaluate` finds them.
    results = json.loads((steps[1].parent.parent / "results.json").read_text())
    assert float(rows[-1][f"old/{LINE}"]) == pytest.approx(results[LINE])
    assert float(rows[-1]["old/retrieval/text_to_image/mean_rank"]) == pytest.approx(
        results["retrieval/text_to_image/mean_rank"]
    )
    assert {float(row[f"new/{LINE}"]) for row in rows} != {float(rows[0][f"old/{LINE}"])}

    values = [float(row[f"old/{LINE}"]) for row in rows]
    best = [0, 0.5, 1][values.index(max(values))]
    assert_equal(ours, between(state_of(steps[0]), state_of(steps[1]), best))
    out = capsys.readouterr().out
    assert f"mix  old/{LINE}" in out and "3 mixes" in out


def refusals() -> Iterator[tuple[dict[str, Any], str]]:
    yield {"models": "RUN"}, "one model alone; give a list of several, or of a run steps=last_3"
    yield {"models": "RUN", "steps": "last_9"}, "has 2 checkpoints; keep more in training"
    yield {"models": "RUN", "steps": [8, 9]}, "steps=9: .* has no such checkpoint; of 8, 12"
    yield {"models": "RUN", "steps": "newest"}, "expected last_3, all, or a list such as"
    yield {"models": ["RUN", "RUN"], "steps": "all"}, "is not the folder of one run"
    yield {"models": ["RUN"] * 3, "mix": 0.5}, "goes between two models, here 3"
    yield {"models": ["RUN", "RUN"], "mix": 1.5}, "expected a number from 0 .* to 1"
    yield {"models": ["RUN", "RUN"], "mix": True}, "expected a number from 0 .* to 1"
    yield {"models": ["RUN", "RUN"], "mix": [0, 1], "keep": 0.5}, "not among the mixes 0, 1"
    yield {"models": ["RUN", "RUN"], "mix": 0.5, "keep": LINE}, "chooses among several mixes"
    yield {"models": ["RUN", "NONE"]}, "no such folder; expected a run's folder"
    yield {"models": ["RUN", "RUN"], "format": "onnx"}, "format=onnx: expected huggingface or"


@pytest.mark.parametrize(("given", "words"), list(refusals()))
def test_what_cannot_be_averaged_is_refused_in_one_line(
    given: dict[str, Any], words: str, trained: Path, tmp_path: Path
) -> None:
    places = {"RUN": str(trained), "NONE": str(tmp_path / "none")}
    models = given.pop("models")
    models = places[models] if isinstance(models, str) else [places[name] for name in models]
    with pytest.raises(UserError, match=words):
        look_before_averaging(settings_of(models, tmp_path / "to", **given))


def test_models_that_mean_other_things_by_their_weights_are_refused(
    trained: Path, steps: tuple[Path, Path], tmp_path: Path
) -> None:
    """Other tokens; and other heads, which no shape shows."""
    changes: dict[str, Any] = {"heads": 4}
    other = shutil.copytree(trained, tmp_path / "heads", symlinks=True)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["model"]["text_tower"] |= changes
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="with the same weights it embeds texts otherwise than"):
        averaged([str(trained), str(other)], tmp_path / "to")

    tokens = shutil.copytree(trained, tmp_path / "tokens", symlinks=True)
    file = tokens / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    last, before = sorted(vocabulary, key=vocabulary.__getitem__)[-2:]
    vocabulary[last], vocabulary[before] = vocabulary[before], vocabulary[last]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="has other tokens than"):
        averaged([str(trained), str(tokens)], tmp_path / "to")
    assert not (tmp_path / "to").exists()
    assert np.isfinite(float(state_of(steps[0])["temperature.value"]))
