"""Runs that begin with encoders, CLIP or SigLIP: trained, resumed, exported, loaded elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize
from transformers import AutoTokenizer

import align_train
from align_train.commands.begun import as_begun
from align_train.commands.spelled_out import explicit
from align_train.config.components import build
from align_train.config.compose import compose_training
from align_train.config.saved import read_nodes, to_yaml
from align_train.errors import UserError
from align_train.pretrained.pretrained import without_pretrained
from align_train.pretrained.published import published
from align_train.run.folder import RunFolder
from align_train.training.flops import ModelFlops
from align_train.training.randomness import RandomLayers
from tests.support.clip_folders import make_clip, make_siglip
from tests.support.commands import UNEVALUATED, finish, run, start
from tests.support.text_encoders import TEXTS, make_encoder

VIT = (
    "model=by_name",
    "model.image_tower.name=test_vit",
    "model.image_tower.pretrained=false",
    "+model.image_tower.options.img_size=32",
    "model.image_tower.projection=null",
    "model.max_tokens=32",
)


def begins_with(kind: str, folder: Path) -> tuple[str, ...]:
    """Makes a small model in a folder of its kind's name, and says how a run begins with it."""
    if kind == "clip":
        make_clip(folder / kind, dropout=0.1)
        return ("model=huggingface", f"model.path={folder}/{kind}")
    if kind == "siglip":
        make_siglip(folder / kind, dropout=0.1)
        return ("model=huggingface", f"model.path={folder}/{kind}", "loss=sigmoid")
    make_encoder(folder / kind, kind, dropout=0.1)
    return (*VIT, f"model.text_tower.name={folder}/{kind}")


def test_a_network_without_words_is_no_text_encoder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    words = (*VIT, f"model.text_tower.name={tmp_path}", "data=webdataset", "data.shards=x")
    with pytest.raises(UserError, match=r"^model\.text_tower\.name=/.*: resnet is no text encoder"):
        compose_training(*words, "model.text_tower.pretrained=false", fill_in=explicit)


def test_settings_of_an_encoder_are_spelled_out(tmp_path: Path) -> None:
    words = (*begins_with("xlm-roberta", tmp_path), "data=webdataset", "data.shards=x")
    settings = compose_training(*words, fill_in=explicit)
    folder = f"{tmp_path}/xlm-roberta"
    tower = settings.model["text_tower"]
    assert tower["config"]["model_type"] == "xlm-roberta" and tower["pooling"] == "first"
    assert (settings.data["tokenizer"], settings.model["vocabulary_size"]) == (folder, 259)
    assert folder not in str(without_pretrained(settings.model))
    assert folder not in str(published(settings.model))

    # What the user says of its configuration stays; positions are 514 - 2 of XLM-R's.
    changed = "+model.text_tower.config.hidden_dropout_prob=0.5"
    model = compose_training(*words, changed, fill_in=explicit).model
    assert model["text_tower"]["config"]["hidden_dropout_prob"] == 0.5
    with pytest.raises(UserError, match=r"max_tokens=129: .* 128 positions; set model.max_tokens="):
        build(settings.model | {"max_tokens": 129})

    # A run that goes on without the folder has what it had.
    run_folder = RunFolder(tmp_path)
    run_folder.config.write_text(to_yaml(settings))
    shutil.rmtree(folder)
    told = r"^model\.text_tower\.name=/.*: no such folder; .* its tokenizer alone: give data\.toke"
    with pytest.raises(UserError, match=told):
        compose_training(*words, fill_in=explicit)
    later = compose_training(*words, f"data.tokenizer={folder}", fill_in=explicit)
    assert not later.model["text_tower"]["config"]
    kept = as_begun(run_folder, later, 4)
    assert kept.model["text_tower"] == tower and kept.model["vocabulary_size"] == 259


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_model_of_two_towers_is_theirs_and_can_be_trained(kind: str, tmp_path: Path) -> None:
    make: Any = {"clip": make_clip, "siglip": make_siglip}[kind]
    theirs = make(tmp_path / kind, dropout=0.1)
    ours = align_train.load(str(tmp_path / kind))
    tokenizer: Any = AutoTokenizer
    padding: Any = {"clip": True, "siglip": "max_length"}[kind]
    inputs = tokenizer.from_pretrained(tmp_path / kind)(
        TEXTS, padding=padding, truncation=True, return_tensors="pt"
    )
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        given: dict[str, Any] = {"pixel_values": images, "input_ids": inputs["input_ids"]}
        result = theirs(**given)
        texts = normalize(result.text_embeds, dim=-1)
        padded = ours.encode_text(ours.tokenizer(TEXTS))
        short = ours.trimming_tokenizer()
        alone = torch.cat([ours.encode_text(torch.from_numpy(short([text]))) for text in TEXTS])
        logits = ours.similarity(ours.encode_image(images), padded)
    torch.testing.assert_close(padded, texts, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(alone, texts, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(logits, result.logits_per_image, atol=1e-4, rtol=1e-5)

    loss = () if kind == "clip" else ("loss=sigmoid",)
    words = ("model=huggingface", f"model.path={tmp_path}/{kind}", *loss)
    settings = compose_training(*words, fill_in=explicit)
    model: Any = build(settings.model)
    # Attention of both towers, and none draws by torch's generator.
    assert len(RandomLayers(model)) == 4 and len(model.blocks) == 4
    assert ModelFlops(model).of_step(1, 8) > 0
    # Positions of larger images are interpolated.
    larger = torch.randn(2, 3, 48, 48)
    assert model.eval().encode_image(larger).shape == (2, model.dim)


def eight_of(demo: Path) -> tuple[str, ...]:
    """Settings of a run in batches of eight pairs, without BatchNorm."""
    return (
        *UNEVALUATED,
        "data=webdataset",
        f"data.shards={demo}/train",
        "data.lanes=2",
        "data.window=64",
        "batch_size=8",
        "chunk_size=4",
        "norm_group=null",
        "log_every=1",
        "precision=fp32",
        "name=named",
    )


@pytest.mark.long
@pytest.mark.parametrize("kind", ["xlm-roberta", "modernbert", "clip", "siglip"])
def test_a_run_is_trained_resumed_exported_and_loaded_elsewhere(
    kind: str, demo: Path, tmp_path: Path
) -> None:
    words = (*begins_with(kind, tmp_path), *eight_of(demo))
    run(*words, "max_steps=2", cwd=tmp_path)
    assert "step 2" in run(*words, "max_steps=4", cwd=tmp_path).stdout
    run("model=outputs/named", "to=exported", cwd=tmp_path, module="align_train.export")

    # Neither needs the model that the run began with.
    shutil.rmtree(tmp_path / kind)
    ours = align_train.load(str(tmp_path / "outputs" / "named"))
    there = align_train.load(str(tmp_path / "exported"))
    ids = ours.tokenizer(TEXTS)
    assert torch.equal(there.tokenizer(TEXTS), ids)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(there.encode_text(ids), ours.encode_text(ids))
        assert torch.equal(there.encode_image(images), ours.encode_image(images))
    assert ours.temperature == there.temperature

    node = read_nodes(tmp_path / "exported" / "config.yaml")["model"]
    assert str(tmp_path) not in str(node)
    words = ("model=outputs/named", "to=theirs", "format=huggingface")
    refused = finish(start(*words, cwd=tmp_path, module="align_train.export"))
    assert refused.returncode == 2
    assert "format=align_train exports it in our own format" in refused.stderr


@pytest.mark.long
@pytest.mark.parametrize("kind", ["xlm-roberta", "modernbert"])
def test_adapters_of_an_encoder_are_resumed_averaged_and_exported(
    kind: str, demo: Path, tmp_path: Path
) -> None:
    """An average is one of merged weights, and needs the encoder's folder no longer."""
    lora = ("lora.text=4", "lora.dropout=0.1", "checkpoint_every=2", "keep_every=2")
    words = (*begins_with(kind, tmp_path), *eight_of(demo), *lora)
    for steps in (2, 4):
        run(*words, f"max_steps={steps}", cwd=tmp_path)
    shutil.rmtree(tmp_path / kind)
    average = ("models=outputs/named", "steps=[2,4]", "to=averaged")
    run(*average, cwd=tmp_path, module="align_train.average")
    run("model=outputs/named", "to=exported", cwd=tmp_path, module="align_train.export")

    checkpoints = "outputs/named/checkpoints"
    states = {
        name: align_train.load(str(tmp_path / path)).model.state_dict()
        for name, path in {
            "earlier": f"{checkpoints}/step-00000002.ckpt",
            "last": "outputs/named",
            "averaged": "averaged",
            "exported": "exported",
        }.items()
    }
    moved = 0
    for name, last in states["last"].items():
        assert "lora" not in name and torch.equal(states["exported"][name], last)
        mean = (states["earlier"][name] + last) / 2
        torch.testing.assert_close(states["averaged"][name], mean, rtol=0, atol=1e-6)
        moved += name.startswith("text_tower.") and not torch.equal(states["earlier"][name], last)
    assert moved > 5
