"""`export format=onnx`: what onnxruntime computes is what the model computes, or is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

import align_train
from align_train.commands import onnx_towers
from align_train.commands.export import export
from align_train.commands.onnx_towers import export_images, export_texts
from align_train.config.command_schema import ExportSettings
from align_train.config.compose import compose_command
from align_train.errors import UserError
from align_train.model.hugging_face_text import HuggingFaceTextTower
from align_train.model.image_tower import TimmTower
from align_train.pretrained.open import open_pretrained
from tests.support.cards import card_code
from tests.support.clip_folders import make_clip, make_siglip
from tests.support.commands import UNEVALUATED, made_once, run
from tests.support.text_encoders import KINDS, make_encoder


def exported(model: Path | str, to: Path) -> Path:
    settings = compose_command(
        "export", ExportSettings, f"model={model}", f"to={to}", "format=onnx"
    )
    export(settings)
    return to


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def texts_of(batch: int, length: int, tokens: int = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch * 100 + length)
    ids = torch.randint(tokens, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[batch // 2, length // 2 :] = 0
    return ids, mask


def assert_as(folder: Path, model: Any, sizes: list[int], lengths: list[int]) -> None:
    """Compares both files with a model that embeds, at every size, length and batch."""
    images, texts = session(folder / "image_tower.onnx"), session(folder / "text_tower.onnx")
    for batch in (1, 2, 7, 64):
        for size in sizes if batch < 64 else sizes[:1]:
            pixels = torch.rand(batch, 3, size, size) * 2 - 1
            with torch.no_grad():
                wanted = model.encode_image(pixels).numpy()
            (found,) = images.run(None, {"pixel_values": pixels.numpy()})
            np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=0)

        for length in lengths:
            ids, mask = texts_of(batch, length)
            with torch.no_grad():
                wanted = model.encode_text(ids, mask).numpy()
            feeds = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
            (found,) = texts.run(None, feeds)
            np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=0)


@pytest.fixture(scope="session")
def onnx(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    folder = made_once(
        tmp_path_factory, "onnx", lambda folder: exported(trained, folder / "exported")
    )
    return folder / "exported"


@pytest.mark.long
def test_a_runs_files_are_right_at_every_batch_size_and_length(onnx: Path, trained: Path) -> None:
    assert_as(onnx, align_train.load(str(trained)), [32, 33, 224, 289, 290], [3, 8, 9, 32, 64])


@pytest.mark.long
def test_the_folder_says_all_that_a_program_needs(onnx: Path, trained: Path) -> None:
    about = json.loads((onnx / "onnx_model.json").read_text())
    model = align_train.load(str(trained))
    assert about["temperature"] == pytest.approx(model.temperature, rel=1e-7)
    assert about["bias"] is None and about["scores"] == "softmax"
    assert about["images"]["any_size"] and about["images"]["image_size"] == 32
    assert about["texts"]["max_tokens"] == model.node["max_tokens"]
    files = {path.name for path in onnx.iterdir()}
    assert {"tokenizer.json", "preprocessor_config.json", "README.md"} <= files

    images, texts = session(onnx / "image_tower.onnx"), session(onnx / "text_tower.onnx")
    assert [(axis.name, axis.shape) for axis in images.get_inputs()] == [
        ("pixel_values", ["batch", 3, "height", "width"])
    ]
    assert [axis.name for axis in texts.get_inputs()] == ["input_ids", "attention_mask"]
    assert [axis.name for axis in images.get_outputs()] == ["image_embeds"]
    assert [axis.name for axis in texts.get_outputs()] == ["text_embeds"]


def run_card(folder: Path) -> str:
    """Runs a card's code beside its folder, on a transparent image, without torch and us."""
    Image.new("RGBA", (24, 24), (200, 30, 30, 90)).save(folder.parent / "image.jpg", "PNG")
    code = (
        f"{card_code(folder)}\nimport sys\nassert not {{'torch', 'align_train'}} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder.parent,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_the_cards_lines_run_without_torch_and_give_the_models_numbers(
    onnx: Path, trained: Path
) -> None:
    printed = [float(number) for number in re.findall(r"[\d.]+(?:e-\d+)?", run_card(onnx))]
    labels = ["a photo of a cat", "a photo of a dog"]
    model = align_train.load(str(trained))
    wanted = model.similarity([onnx.parent / "image.jpg"], labels).softmax(dim=1)
    assert printed == pytest.approx(wanted[0].tolist(), abs=1e-3)


@pytest.mark.long
def test_the_same_model_gives_the_same_files(onnx: Path, trained: Path, tmp_path: Path) -> None:
    again = exported(trained, tmp_path / "exported")
    for path in onnx.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.long
@pytest.mark.parametrize("kind", [*KINDS, "mean", "last"])
def test_encoders_of_hugging_faces_are_right_at_every_length(kind: str, tmp_path: Path) -> None:
    pooling: Any = kind if kind in ("mean", "last") else None
    network = make_encoder(tmp_path / kind, "xlm-roberta" if pooling else kind)
    tokens = network.config.vocab_size
    tower = HuggingFaceTextTower(
        dim=24, vocabulary_size=tokens, name=str(tmp_path / kind), pretrained=True, pooling=pooling
    ).eval()
    model: Any = _Embedder(text_tower=tower)
    node = {"vocabulary_size": tokens, "max_tokens": 64}
    text = session(export_texts(model, node, tmp_path).path)
    for batch in (1, 2, 7, 64):
        for length in (3, 8, 9, 64):
            ids, mask = texts_of(batch, length)
            if tower.end_id is not None:
                ids[:, -1] = ids[batch // 2, length // 2 - 1] = tower.end_id
            with torch.no_grad():
                wanted = model.encode_text(ids, mask).numpy()
            feeds = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
            np.testing.assert_allclose(text.run(None, feeds)[0], wanted, atol=1e-4, rtol=0)


class _Embedder(nn.Module):
    """A model of which one tower counts."""

    takes_labels = False

    def __init__(self, **towers: nn.Module) -> None:
        super().__init__()
        self.text_tower: Any = towers.get("text_tower")
        self.image_tower: Any = towers.get("image_tower")

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return normalize(self.text_tower(input_ids, attention_mask), dim=-1)

    def encode_image(self, images: Tensor) -> Tensor:
        return normalize(self.image_tower(images), dim=-1)


TIMM: dict[str, tuple[bool, dict[str, Any]]] = {
    "vit_tiny_patch16_224": (False, {"img_size": 64, "depth": 2}),
    # It takes images of 80, not of 65 pixels: its file would take both.
    "vit_small_patch16_224": (False, {"img_size": 64, "depth": 2, "dynamic_img_size": True}),
    "tf_efficientnet_lite0": (True, {}),
    "convnext_atto": (True, {}),
    "resnet10t": (True, {}),
}


@pytest.mark.long
@pytest.mark.parametrize("name", TIMM)
def test_timms_towers_are_right_at_any_size_or_refuse_other_sizes(
    name: str, tmp_path: Path
) -> None:
    any_size, options = TIMM[name]
    torch.manual_seed(0)
    tower = TimmTower(name=name, projection=24, options=options).eval()
    model: Any = _Embedder(image_tower=tower)
    written = export_images(model, 64, tmp_path)
    images = session(written.path)
    assert written.any_size == any_size
    for size in (64, 80, 65, 224, 289, 290):
        pixels = torch.rand(2, 3, size, size) * 2 - 1
        feeds = {"pixel_values": pixels.numpy()}
        if size > 64 and not any_size:
            with pytest.raises(Exception, match=r"index: 2 Got: \d+ Expected: 64"):
                images.run(None, feeds)
            continue
        with torch.no_grad():
            wanted = model.encode_image(pixels).numpy()
        np.testing.assert_allclose(images.run(None, feeds)[0], wanted, atol=1e-4, rtol=0)


class _BySize(nn.Module):
    """Chooses by the side of an image."""

    def forward(self, images: Tensor) -> Tensor:
        colours = images.mean(dim=(2, 3))
        return colours.square() if images.shape[2] > 64 else colours


class _Counting(nn.Module):
    """Gives other numbers each time."""

    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.mean(dim=(2, 3)) + self.calls


@pytest.mark.long
def test_a_choice_by_size_becomes_a_fixed_axis(tmp_path: Path) -> None:
    model: Any = _Embedder(image_tower=_BySize())
    assert not export_images(model, 64, tmp_path).any_size


def test_a_file_with_other_numbers_than_the_model_is_refused(tmp_path: Path) -> None:
    model: Any = _Embedder(image_tower=_Counting())
    with pytest.raises(UserError, match=r"its numbers are .* from the model's, .*; leave format"):
        export_images(model, 64, tmp_path)


@pytest.mark.long
def test_weights_beyond_two_gigabytes_lie_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_towers, "_LARGEST_FILE", 1_000)
    torch.manual_seed(0)
    tower = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 64))
    model: Any = _Embedder(image_tower=tower)
    written = export_images(model, 16, tmp_path)
    weights = tmp_path / "image_tower.onnx.data"
    assert weights.stat().st_size >= 4 * 192 * 64 > written.path.stat().st_size
    assert written.worst < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("make", [make_clip, make_siglip])
def test_hugging_faces_clip_and_siglip_can_be_exported(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "clip")
    folder = exported(tmp_path / "clip", tmp_path / "onnx")
    model = align_train.load(str(tmp_path / "clip"))
    about = json.loads((folder / "onnx_model.json").read_text())
    assert (about["scores"] == "sigmoid") == (about["bias"] is not None) == (make is make_siglip)
    pixels = torch.rand(7, 3, 32, 32)
    (found,) = session(folder / "image_tower.onnx").run(None, {"pixel_values": pixels.numpy()})
    np.testing.assert_allclose(found, model.encode_image(pixels).numpy(), atol=1e-4, rtol=0)
    texts = model.tokenizer(["a", "b c", "a longer one"])
    mask = (texts >= 0).long()
    feeds = {"input_ids": texts.clamp(min=0).numpy(), "attention_mask": mask.numpy()}
    (found,) = session(folder / "text_tower.onnx").run(None, feeds)
    np.testing.assert_allclose(found, model.encode_text(texts).numpy(), atol=1e-4, rtol=0)
    assert "AlignModel" not in (folder / "README.md").read_text()


@pytest.mark.long
def test_a_run_in_bf16_is_exported_in_float32(tmp_path: Path, small_run: tuple[str, ...]) -> None:
    import onnx

    options = (*small_run, *UNEVALUATED, "name=half", "max_steps=2", "precision=bf16")
    run(*options, cwd=tmp_path)
    folder = exported(tmp_path / "outputs" / "half", tmp_path / "onnx")
    for name in ("image_tower.onnx", "text_tower.onnx"):
        graph = onnx.load(folder / name).graph
        kinds = {tensor.data_type for tensor in graph.initializer}
        assert kinds <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL}
    assert_as(folder, align_train.load(str(tmp_path / "outputs" / "half")), [32, 45], [3, 9])


@pytest.mark.long
def test_a_classifier_gives_logits_and_its_card_names_classes(
    tmp_path: Path, trained: Path, demo: Path, small_run: tuple[str, ...]
) -> None:
    run(
        "experiment=linear_probe",
        f"model.path={trained}",
        f"data.shards={demo}/train",
        f"data.held_out={demo}/held_out",
        f"data.classes={demo}/classes.json",
        "data.caption=json:class",
        "batch_size=32",
        "norm_group=32",
        "max_steps=4",
        "chunk_size=32",
        "evaluate_every=0",
        "name=probe",
        cwd=tmp_path,
    )
    folder = exported(tmp_path / "outputs" / "probe", tmp_path / "onnx")
    assert not (folder / "text_tower.onnx").exists()
    model = align_train.load_classifier(str(tmp_path / "outputs" / "probe"))
    pixels = torch.rand(7, 3, 32, 32) * 2 - 1
    images = session(folder / "image_tower.onnx")
    assert [axis.name for axis in images.get_outputs()] == ["logits"]
    (found,) = images.run(None, {"pixel_values": pixels.numpy()})
    np.testing.assert_allclose(found, model.encode_image(pixels).numpy(), atol=1e-4, rtol=0)

    name = run_card(folder).rpartition(" ")[0]
    best = model.classify([tmp_path / "image.jpg"], top=1)[0][0]
    assert name == best[0]


def test_without_the_libraries_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align_train.commands import export_choice

    monkeypatch.setattr(export_choice, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'align_train\[onnx\]'"):
        exported(tmp_path, tmp_path / "onnx")


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path, small_align: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (bare / name).symlink_to(small_align / name)
    assert "tokenizer" in open_pretrained(str(bare)).missing
    with pytest.raises(UserError, match=r"format=onnx: .* no tokenizer.json"):
        exported(bare, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
