"""Classifiers: labels instead of texts, from a trained image tower to a folder that people use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import align_train
from align_train.cluster.collectives import rank, world_size
from align_train.errors import UserError
from align_train.evals import Classification, EmbeddedPairs
from align_train.loss.classification import ClassificationLoss
from align_train.model import Classifier, EfficientNetTower
from align_train.optim import StepDecay
from align_train.pretrained.explicit import explicit_settings
from align_train.shards.caption import TextPlace
from align_train.stream.classes import ClassList, LabelSource
from tests.support.commands import data_module, run
from tests.support.optimizers import PLAIN_SGD
from tests.support.processes import on_ranks
from tests.support.ready import lying_ready
from tests.support.runs import metrics
from tests.support.settings import composed

SHOT = (
    "batch_size=32",
    "norm_group=8",
    "chunk_size=8",
    "log_every=1",
    "checkpoint_every=2",
    "data.window=64",
)


def recipe(experiment: str, model: Path, demo: Path) -> tuple[str, ...]:
    shards = (f"data.shards={demo}/train", f"data.held_out={demo}/held_out")
    labels = (f"data.classes={demo}/classes.json", "data.caption=json:class")
    return (f"experiment={experiment}", f"model.path={model}", *shards, *labels, *SHOT)


def weights(folder: Path) -> dict[str, Tensor]:
    state = torch.load(folder / "checkpoints" / "last", weights_only=True)["state_dict"]
    return {name.removeprefix("model."): value for name, value in state.items()}


@pytest.mark.long
def test_a_linear_probe_and_then_the_whole_classifier(
    tmp_path: Path, trained: Path, demo: Path
) -> None:
    """A probe locks the tower of a run; a whole classifier starts from that probe.

    The classifier keeps the linear layer, trains under one strategy and resumes under another.
    """
    said = run(*recipe("linear_probe", trained, demo), "max_steps=4", cwd=tmp_path).stdout
    assert (
        f"begins with  the image tower of {trained}" in said and "64 classes, locked: image" in said
    )
    probe, before = tmp_path / "outputs" / "linear_probe", weights(trained)
    after = weights(probe)
    assert after.keys() == {name for name in before if name.startswith("image_tower.")} | {
        "head.weight",
        "head.bias",
    }
    assert all(
        torch.equal(after[name], before[name]) for name in after if not name.startswith("head.")
    )
    assert after["head.weight"].abs().max() > 0
    rows = metrics(probe)
    assert "temperature" not in rows[0] and float(rows[0]["loss"]) == pytest.approx(
        np.log(64), abs=1e-4
    )
    assert [float(row["lr"]) for row in rows] == [0.1] * 4
    results = json.loads((probe / "results.json").read_text())
    assert {"classification/top1", "classification/top5", "held_out/loss"} < results.keys()
    assert (probe / "classification.png").exists() and not (probe / "tokenizer").exists()

    whole = (*recipe("finetune_classification", probe, demo), "name=whole", "scheduler.every=2")
    said = run(*whole, "max_steps=2", "trainer.devices=2", "strategy=fsdp", cwd=tmp_path).stdout
    assert f"begins with  the weights of {probe}" in said
    half = weights(tmp_path / "outputs" / "whole")
    assert not any(
        torch.equal(half[name], after[name])
        for name in ("head.weight", "image_tower.network.conv_stem.weight")
    )
    run(*whole, "max_steps=4", cwd=tmp_path)
    rows = metrics(tmp_path / "outputs" / "whole")
    assert [float(row["lr"]) for row in rows] == pytest.approx([1e-3, 1e-3, 2e-4, 2e-4])
    shown = run("name=whole", "step=3", cwd=tmp_path, module="align_train.show").stdout
    assert (
        sum(name in shown for name in json.loads((demo / "classes.json").read_text())["names"]) > 5
    )

    moved = (tmp_path / "outputs" / "whole").rename(tmp_path / "moved")
    (moved / "results.json").unlink()
    run("model=moved", "to=own", cwd=tmp_path, module="align_train.export")
    assert load_file(tmp_path / "own" / "model.safetensors").keys() == half.keys()
    where = (f"shards={demo}/held_out", "caption=json:class")
    for path in ("moved", "own"):
        run(f"model={path}", *where, cwd=tmp_path, module="align_train.evaluate")
    one, other = (
        json.loads((tmp_path / path / "results.json").read_text())
        for path in ("moved", "outputs/own_evaluation")
    )
    assert one["classification/top5"] == other["classification/top5"]
    assert one["held_out/loss"] == pytest.approx(
        other["held_out/loss"], rel=0.1
    )  # of groups of 32, and of all

    larger = ("image_size=40", "resize_size=44", f"to={tmp_path}/larger")
    run("model=own", *where, *larger, cwd=tmp_path, module="align_train.evaluate")
    assert (
        json.loads((tmp_path / "larger" / "results.json").read_text())["held_out/loss"]
        != other["held_out/loss"]
    )

    model = align_train.load_classifier(str(tmp_path / "own"))
    picture = Image.new("RGB", (50, 40), "red")
    logits = model.encode_image(model.preprocess(picture)[None])
    ((best, share), *_), _ = model.classify([picture, picture], top=3)
    assert best == model.names[int(logits.argmax())] and share == pytest.approx(
        logits.softmax(1).max().item()
    )
    with pytest.raises(UserError, match=r"a classifier; load it with align_train\.load_classifier"):
        align_train.load(str(tmp_path / "own"))
    with pytest.raises(UserError, match=r"no classifier; load it with align_train\.load$"):
        align_train.load_classifier(str(trained))


@pytest.mark.long
def test_from_a_folder_of_hugging_face(tmp_path: Path, small_align: Path, demo: Path) -> None:
    run(
        *recipe("finetune_classification", small_align, demo),
        "max_steps=2",
        "recompute=true",
        "clip=1",
        cwd=tmp_path,
    )
    assert_tuned(tmp_path / "outputs" / "finetune_classification", small_align)


@pytest.mark.long
def test_under_deepspeed(tmp_path: Path, small_align: Path, demo: Path) -> None:
    """Momentum is a moment as AdamW's are: three engines, one run."""
    chosen = recipe("finetune_classification", small_align, demo)
    for steps, strategy in (("2", "strategy.stage=2"), ("4", "strategy.stage=3")):
        engine = ("trainer.devices=2", "strategy=deepspeed", strategy)
        run(*chosen, f"max_steps={steps}", "name=moved", *engine, cwd=tmp_path)
    for steps in ("4", "6"):
        run(*chosen, f"max_steps={steps}", "name=stayed", cwd=tmp_path)
    run(*chosen, "max_steps=6", "name=moved", cwd=tmp_path)
    one, other = (metrics(tmp_path / "outputs" / name) for name in ("moved", "stayed"))
    assert [float(row["loss"]) for row in one] == pytest.approx(
        [float(row["loss"]) for row in other], rel=1e-4
    )
    assert_tuned(tmp_path / "outputs" / "moved", small_align)


def assert_tuned(folder: Path, imported: Path) -> None:
    theirs = load_file(imported / "model.safetensors")["vision_model.embeddings.convolution.weight"]
    ours = weights(folder)["image_tower.network.conv_stem.weight"]
    assert not torch.equal(ours, theirs)
    torch.testing.assert_close(ours, theirs, atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("model.classes=3",), r"model\.classes=3: data\.classes=.* has 64"),
        (
            ("data.classes=10", "data.held_out=null", "data.max_bad_share=0.01"),
            r"of \d+ pairs could not be used",
        ),
        (("+model.image_tower.depth=3.0",), r"no tensor .*blocks.*not whole"),
    ],
)
def test_what_does_not_go_together(
    tmp_path: Path, trained: Path, demo: Path, wrong: tuple[str, ...], words: str
) -> None:
    with pytest.raises(AssertionError, match=words):
        run(*recipe("linear_probe", trained, demo), "max_steps=40", *wrong, cwd=tmp_path)


def test_a_classifier_is_no_dual_encoder(tmp_path: Path, trained: Path) -> None:
    settings = (
        (trained / "config.yaml")
        .read_text()
        .replace("align_train.model.DualEncoder", "align_train.model.Classifier")
    )
    (tmp_path / "config.yaml").write_text(settings)
    (tmp_path / "model.safetensors").touch()
    start = composed("model=huggingface", f"model.path={tmp_path}")
    with pytest.raises(
        UserError, match="a classifier, which has no text tower; take model=classifier"
    ):
        explicit_settings(start.model, start.data)


def test_labels_are_numbers_or_names(tmp_path: Path) -> None:
    file = tmp_path / "classes.json"
    file.write_text(json.dumps({"names": ["tench", "crane", "7", "crane"]}))
    labels = ClassList(str(file))
    assert labels.names == ["tench", "crane (1)", "7", "crane (3)"]
    for label, number in ((0, 0), ("tench ", 0), ("1", 1), ("crane (3)", 3), (3, 3), ("7", 2)):
        assert labels([labels.name(label)]).tolist() == [[number]]
    for wrong in ("crane", 4, -1, "4", "-1", True, None, 1.0, ["tench"], "²"):
        with pytest.raises(ValueError, match="is none of the 4 classes"):
            labels.name(wrong)
    labels.save(tmp_path)
    assert ClassList(str(file)).names == labels.names
    source = LabelSource((TextPlace("json", "label"),), labels=labels)
    assert source.read(b'{"label": 2}') == ["7"] and source.read(b'{"label": [0, "7"]}') == [
        "tench",
        "7",
    ]
    with pytest.raises(ValueError, match="the label in json:label: there is none"):
        source.read(b"{}")
    assert ClassList(3).names == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("[1]", "expected JSON such as"),
        ('{"names": [1, 2]}', "expected JSON"),
        ('{"names": ["a"]}', "2"),
    ],
)
def test_a_class_file_that_is_none(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "classes.json").write_text(content)
    with pytest.raises(UserError, match=words):
        ClassList(str(tmp_path / "classes.json"))


def test_texts_or_labels(demo: Path) -> None:
    with pytest.raises(UserError, match="expected one of them: texts, or labels"):
        data_module(str(demo / "train"), demo / "tokenizer", classes=64)


def small_classifier() -> Classifier:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "channels": [8],
        "kernels": [3],
        "strides": [2],
        "repeats": [1],
        "expansions": [1],
        "stem": 8,
    }
    return Classifier(image_tower=EfficientNetTower(**shape), classes=5)


def test_groups_and_momentum() -> None:
    model = small_classifier()
    sgd = replace(PLAIN_SGD, lr=0.1, head_lr=1.0, momentum=0.5, weight_decay=0.0)
    optimizer = sgd.build(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == set(names.values())
    assert all(rate == (1.0 if name.startswith("head.") else 0.1) for name, rate in rates.items())
    for _ in range(2):
        model.head.bias.grad = torch.ones(5)
        optimizer.step()
    torch.testing.assert_close(model.head.bias.detach(), torch.full((5,), -(1.0 + 1.5)))
    with pytest.raises(ValueError, match=r"optimizer\.momentum=1"):
        replace(PLAIN_SGD, momentum=1.0)


def test_decay_in_steps() -> None:
    schedule = StepDecay(
        every=3, every_pairs=None, ratio=0.5, warmup_steps=2, warmup_pairs=None, batch_size=1
    )
    assert [schedule.factor(step, 100) for step in range(8)] == [
        0.5,
        1.0,
        1.0,
        0.5,
        0.5,
        0.5,
        0.25,
        0.25,
    ]
    with pytest.raises(ValueError, match="every=0"):
        StepDecay(
            every=0, every_pairs=None, ratio=0.5, warmup_steps=0, warmup_pairs=None, batch_size=1
        )


LOGITS, LABELS = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 5


def share_of_loss() -> list[Tensor]:
    own = slice(rank() * 8 // world_size(), (rank() + 1) * 8 // world_size())
    logits = LOGITS[own].clone().requires_grad_()
    value = ClassificationLoss(label_smoothing=0.1)(
        logits, nn.functional.one_hot(LABELS[own], 5).float()
    )
    value.backward()
    assert logits.grad is not None
    return [value.detach(), logits.grad]


@pytest.mark.parametrize("world", [1, 2])
def test_the_loss_is_that_of_the_global_batch(world: int, tmp_path: Path) -> None:
    logits = LOGITS.clone().requires_grad_()
    value = cross_entropy(logits, LABELS, label_smoothing=0.1)
    value.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    found = on_ranks(world, share_of_loss, folder=tmp_path)
    for share, _ in found:
        torch.testing.assert_close(share, value.detach())
    torch.testing.assert_close(torch.cat([gradient for _, gradient in found]) / world, logits.grad)


def test_accuracy_by_hand() -> None:
    logits = torch.tensor(
        [[3.0, 2, 1, 0, 0, 0, 0], [0.0, 1, 2, 3, 4, 5, 6], [9.0, 0, 0, 0, 0, 0, 8]]
    )
    texts = nn.functional.one_hot(
        torch.tensor([0, 0, 5, 6]), 7
    ).float()  # the last picture has two labels
    owners = torch.tensor([0, 1, 2, 2])
    evaluator = Classification()
    found = dict(
        evaluator(
            lying_ready(
                EmbeddedPairs(logits, ["a", "a", "f", "g"], owners, [{}] * 3, lambda _: texts)
            )
        )
    )
    assert found == {"top1": pytest.approx(1 / 3), "top5": pytest.approx(2 / 3), "images": 3}
    assert evaluator.answers == ["a", "g", "a"] and evaluator.right == [True, False, False]
    with pytest.raises(UserError, match="wants a classifier"):
        dict(
            evaluator(
                lying_ready(
                    EmbeddedPairs(
                        logits, ["a", "a", "f", "g"], owners, [{}] * 3, lambda _: texts + 0.5
                    )
                )
            )
        )
