"""Towers with weights of their own see images as their makers prepared them, from first to last.

Pixels are compared with the transform of the library that the weights come from. A run with a
locked timm tower is then trained, exported, loaded, evaluated and searched.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import timm.data
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, BertConfig, BertForMaskedLM, CLIPImageProcessor

import align_train
from align_train.commands.begun import as_begun
from align_train.commands.spelled_out import explicit
from align_train.config.compose import compose_training
from align_train.config.saved import read_nodes, to_yaml
from align_train.errors import UserError
from align_train.model import TimmTower
from align_train.model.expected_images import ExpectedImages, of_processor
from align_train.pretrained.origin import origin
from align_train.pretrained.published import published
from align_train.run.folder import RunFolder
from align_train.stream.batch import normalise
from align_train.stream.decode import Views, centre
from tests.support.commands import REPOSITORY, finish, made_once, run, start
from tests.support.settings import composed

PHOTOS = REPOSITORY.parent / "shared" / "data" / "photos"

# They differ in mean, crop and interpolation.
TIMM = (
    "resnet50",
    "vit_base_patch16_224",
    "efficientnet_b0",
    "vgg16",
    "inception_v3",
    "vit_base_patch16_clip_224.openai",
    "tf_efficientnet_b7.ns_jft_in1k",
)

TOWER = "test_efficientnet"  # timm's smallest


class Normalisation:
    """A model's, of given numbers."""

    def __init__(self, images: ExpectedImages) -> None:
        self.image_mean: Any = images.image_mean
        self.image_std: Any = images.image_std


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Noise and blocks of many sizes, and real photos if they lie beside the project."""
    found = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.rglob("*.jpg"))[:8]]
    numbers = np.random.default_rng(0)
    # Odd margins on either side of the crop, long images, small ones.
    for sides in ((301, 97), (97, 301), (333, 222), (225, 451), (230, 247), (700, 37), (7, 5)):
        noise = numbers.integers(0, 256, (sides[1], sides[0], 3), dtype=np.uint8)
        found.append(Image.fromarray(noise))
        blocks = Image.fromarray(numbers.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        found.append(blocks.resize(sides, Image.Resampling.NEAREST))
    return found


def levels_between(expected: ExpectedImages, theirs: Any, images: list[Image.Image]) -> float:
    """The largest difference between our numbers and theirs, in levels of 8 bits."""
    views = Views(
        image_size=expected.image_size,
        resize_size=expected.resize_size,
        resize=expected.resize,  # type: ignore[arg-type]
        interpolation=expected.interpolation,  # type: ignore[arg-type]
    )
    level = 1 / (255 * torch.tensor(expected.image_std)[:, None, None])
    worst = 0.0
    for image in images:
        pixels = torch.from_numpy(centre(image, views))[None]
        ours = normalise(pixels, Normalisation(expected))[0]
        worst = max(worst, ((ours - theirs(image)).abs() / level).max().item())
    return worst


def transform_of_timm(name: str) -> Any:
    library: Any = timm.data
    config: Any = timm.get_pretrained_cfg(name)
    settings = library.resolve_data_config(pretrained_cfg=config.to_dict())
    return library.create_transform(**settings, is_training=False)


@pytest.mark.parametrize("name", TIMM)
def test_pixels_are_those_of_timm(name: str, images: list[Image.Image]) -> None:
    transform = transform_of_timm(name)
    expected = TimmTower.expected_images({"name": name, "pretrained": True})
    assert expected is not None
    assert levels_between(expected, transform, images) <= 1


@pytest.mark.parametrize(("size", "crop"), [(224, 224), (237, 200)])
def test_pixels_are_those_of_clip(size: int, crop: int, images: list[Image.Image]) -> None:
    make: Any = CLIPImageProcessor
    processor = make(size={"shortest_edge": size}, crop_size={"height": crop, "width": crop})

    def theirs(image: Image.Image) -> Tensor:
        values: Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
        return values

    assert levels_between(of_processor(processor.to_dict(), "x"), theirs, images) <= 1


def test_aligns_numbers_are_the_same_to_the_last_bit() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 16, 16, 3)
    half = Normalisation(
        ExpectedImages(16, 16, "squash", "bilinear", [0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
    )
    plain = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    assert torch.equal(normalise(pixels, None), plain)
    assert torch.equal(normalise(pixels, half), plain)
    # Without weights of its own a tower keeps them, whatever its name; tiny is not even asked.
    assert composed().model["image_mean"] is None
    model = fresh("model.image_tower.name=resnet50").model
    assert (model["image_size"], model["resize_size"]) == (224, 256)
    assert model["image_mean"] is model["resize"] is model["interpolation"] is None


def fresh(*overrides: str) -> Any:
    return compose_training("model=timm_base", *overrides, fill_in=explicit)


def test_what_a_user_gives_is_kept() -> None:
    model = fresh(
        f"model.image_tower.name={TOWER}",
        "model.image_tower.pretrained=true",
        "model.image_size=128",
        "model.interpolation=bilinear",
    ).model
    assert (model["image_size"], model["resize_size"]) == (128, 134)
    assert (model["resize"], model["interpolation"]) == ("timm", "bilinear")
    assert model["image_mean"] == [0.485, 0.456, 0.406]

    with pytest.raises(UserError, match=r"crop_pct=1\.15.*give another tower, or all of model\."):
        fresh("model.image_tower.name=volo_d5_512", "model.image_tower.pretrained=true")
    with pytest.raises(UserError, match="resnet51 is neither a file here nor a model of timm's"):
        fresh("model.image_tower.name=resnet51")


@pytest.fixture(scope="module")
def lit(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """A folder with weights of both towers, and a run of experiment=lit that began with them."""

    def make(folder: Path) -> None:
        torch.manual_seed(0)
        network: Any = timm.create_model(TOWER)
        tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
        save_file(tensors, folder / "efficientnet.safetensors")
        write_bert(folder / "bert", demo / "tokenizer")
        run(*lit_settings(folder, demo), "max_steps=2", cwd=folder)

    return made_once(tmp_path_factory, "lit", make)


def write_bert(folder: Path, tokenizer: Path, *, rows: int = 304, positions: int = 40) -> None:
    config = BertConfig(
        vocab_size=rows,  # four more than there are tokens
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())


def lit_settings(folder: Path, demo: Path) -> tuple[str, ...]:
    return (
        "experiment=lit",
        "model=timm_base",
        f"model.image_tower.name={TOWER}",
        f"model.image_tower.pretrained={folder}/efficientnet.safetensors",
        "model.image_tower.projection=null",
        f"model.text_tower.pretrained={folder}/bert",
        "model.max_tokens=32",
        f"data.shards={demo}/train",
        f"data.held_out={demo}/held_out",
        "data.lanes=2",
        "data.window=64",
        "batch_size=8",
        "chunk_size=8",
        "log_every=1",
        "precision=fp32",
        "eval.retrieval=null",
    )


def test_a_locked_tower_sees_what_timm_shows_it(lit: Path, images: list[Image.Image]) -> None:
    model = align_train.load(str(lit / "outputs" / "lit"))
    network: Any = timm.create_model(TOWER, checkpoint_path=f"{lit}/efficientnet.safetensors")
    network.reset_classifier(0)
    transform = transform_of_timm(TOWER)

    with torch.no_grad():
        theirs = network.eval()(torch.stack([transform(image) for image in images]))
        ours = model.encode_images(images)
        model.model.image_mean = None
        as_align = model.encode_images(images)
    torch.testing.assert_close(ours, normalize(theirs, dim=-1), atol=1e-5, rtol=0)
    # 100 x what is tolerated: random weights see little contrast.
    assert (as_align - ours).abs().max() > 1e-3

    node = read_nodes(lit / "outputs" / "lit" / "config.yaml")["model"]
    assert (node["image_size"], node["resize_size"], node["resize"]) == (160, 168, "timm")
    sizes = {key: node["text_tower"][key] for key in ("hidden", "layers", "heads", "positions")}
    assert sizes == {"hidden": 32, "layers": 1, "heads": 2, "positions": 40}
    assert node["vocabulary_size"] == 304


def test_a_classifier_of_it_sees_the_same(lit: Path) -> None:
    model = {"_target_": "align_train.model.Classifier", "path": f"{lit}/outputs/lit"}
    node = explicit(model, {})["model"]
    assert node["image_mean"] == [0.485, 0.456, 0.406] and node["interpolation"] == "bicubic"


def test_an_export_says_how_images_are_prepared_and_no_path(
    lit: Path, tmp_path: Path, images: list[Image.Image]
) -> None:
    run(f"model={lit}/outputs/lit", "to=exported", cwd=tmp_path, module="align_train.export")
    exported = tmp_path / "exported"
    before = {path: path.stat().st_mtime_ns for path in exported.iterdir()}

    kind: Any = AutoImageProcessor
    processor = kind.from_pretrained(exported)
    model = align_train.load(str(exported))
    picture = images[-1].resize((300, 200))
    values = processor(images=picture, return_tensors="pt")["pixel_values"][0]
    difference = (model.preprocess(picture) - values).abs() * 255 * 0.229
    assert difference.max() <= 2.01  # Pillow's bicubic and torch's

    for path in exported.iterdir():
        if path.suffix != ".safetensors":
            assert str(lit) not in path.read_text() and str(tmp_path) not in path.read_text()
    card = (exported / "README.md").read_text()
    assert f"efficientnet.safetensors, a file for timm's {TOWER}; text tower: bert |" in card
    assert "mean 0.485 0.456 0.406, deviation 0.229 0.224 0.225 |" in card

    # Results go beside, never into what was published.
    shards = f"shards={read_nodes(lit / 'outputs' / 'lit' / 'config.yaml')['data']['held_out']}"
    said = run("model=exported", shards, cwd=tmp_path, module="align_train.evaluate").stdout
    assert {path: path.stat().st_mtime_ns for path in exported.iterdir()} == before
    results = tmp_path / "outputs" / "exported_evaluation" / "results.json"
    assert json.loads(results.read_text())["held_out/pairs"] == 64 and str(results) in said


def test_images_are_given_by_their_paths_and_what_is_none_is_named(
    lit: Path, tmp_path: Path
) -> None:
    model = align_train.load(str(lit / "outputs" / "lit"))
    image = Image.new("RGB", (50, 40), "red")
    image.save(tmp_path / "red.png")
    expected = model.similarity([image], ["a red circle"])

    for given in (str(tmp_path / "red.png"), [tmp_path / "red.png"], [np.array(image)]):
        assert torch.equal(model.similarity(given, "a red circle"), expected)
    for bad, words in (
        ("nowhere.png", r"images\[1\]: nowhere\.png: cannot be read \(No such file or directory\)"),
        (lit / "bert", r"images\[1\]: .*bert: a folder or a device, no file"),
        (np.zeros((4, 4, 3)), r"images\[1\]: an array of float64 \[4, 4, 3\]; expected uint8"),
    ):
        with pytest.raises(UserError, match=words):
            model.encode_images([image, bad])  # type: ignore[list-item]

    for texts, words in (
        ([], "texts: none given"),
        (["a", 3], r"texts\[1\]: 3; expected a text"),
        (["\ud800"], r"texts\[0\]: .*half a letter"),
        (3, "texts: 3; expected a text, or a list of texts"),
    ):
        with pytest.raises(UserError, match=words):
            model.similarity([image], texts)  # type: ignore[arg-type]


def test_a_folder_of_images_is_searched_by_file_names(lit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for name, colour in (("red.png", "red"), ("sub/Blaues Bild.jpg", "blue"), ("x.y.webp", "lime")):
        Image.new("RGB", (60, 40), colour).save(folder / name)
    (folder / "red.txt").write_text("something red")
    (folder / "torn.jpg").write_bytes(b"no image")
    (folder / "notes.md").write_text("notes")

    embed = (f"model={lit}/outputs/lit", "images=pictures", "to=index", "workers=0")
    done = run(*embed, cwd=tmp_path, module="align_train.embed")
    assert "4 images" in done.stdout and "1 of those embedded just now" in done.stdout
    assert "left out 1 file without an image" in done.stderr and "notes.md" in done.stderr

    query = ("index=index", f"image={folder}/sub/Blaues Bild.jpg", "top=2")
    found = run(*query, cwd=tmp_path, module="align_train.search").stdout
    assert "1.0000  sub/Blaues Bild.jpg" in found and (tmp_path / "search.png").is_file()
    query = ("index=index", "image=pictures/red.png", "top=1")
    assert "something red" in run(*query, cwd=tmp_path, module="align_train.search").stdout

    # The same command goes on; another list of files is another collection.
    assert "4 images" in run(*embed, cwd=tmp_path, module="align_train.embed").stdout
    (folder / "torn.jpg").unlink()
    refused = finish(start(*embed, cwd=tmp_path, module="align_train.embed"))
    assert refused.returncode == 2 and "other shards or images" in refused.stderr


def test_a_run_that_began_without_them_goes_on_without_them(tmp_path: Path) -> None:
    """A run of an older version: its tower has seen x / 127.5 - 1 so far."""
    overrides = (f"model.image_tower.name={TOWER}", "model.image_tower.pretrained=true")
    settings = fresh(*overrides, "data.tokenizer=x")
    assert settings.data["interpolation"] == "bicubic"

    old = asdict(settings)
    for key in ("resize", "interpolation", "image_mean", "image_std"):
        del old["model"][key]
        old["data"].pop(key, None)
    folder = RunFolder(tmp_path)
    folder.config.write_text(to_yaml(old))

    assert as_begun(folder, settings, 0) is settings
    kept = as_begun(folder, settings, 4)
    for key in ("resize", "interpolation", "image_mean", "image_std"):
        assert kept.model[key] is None and kept.data.get(key) is None
    # And so does the start after that one, when the file has the keys.
    folder.config.write_text(to_yaml(kept))
    assert as_begun(folder, settings, 8) == kept


def test_a_text_tower_that_does_not_fit_is_told_in_one_line(
    lit: Path, demo: Path, tmp_path: Path
) -> None:
    def refusal(*overrides: str) -> str:
        done = finish(start(*lit_settings(lit, demo), *overrides, cwd=tmp_path))
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    assert "knows 40 positions; set model.max_tokens=40" in refusal("model.max_tokens=64")
    tokenizer = json.loads((demo / "tokenizer" / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["swapped"] = words.pop(max(words, key=words.__getitem__))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(tokenizer))
    said = refusal("data.tokenizer=other")
    assert "data.tokenizer=other: gives other tokens than" in said and "/bert" in said


def test_a_name_on_the_hub_comes_with_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "models--somebody--bert"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0123456789abcdef")
    (cached / "snapshots" / "0123456789abcdef").mkdir(parents=True)
    (cached / "snapshots" / "0123456789abcdef" / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    settings = composed(
        "model=b7_base",
        "model.text_tower.pretrained=somebody/bert",
        "model.image_tower.pretrained=tf_efficientnet_b7.ns_jft_in1k",
    )
    assert origin(settings) == {
        "image tower": "timm's tf_efficientnet_b7.ns_jft_in1k",
        "text tower": "somebody/bert, revision 0123456789ab",
    }


def test_published_settings_have_no_paths_and_no_secrets(tmp_path: Path) -> None:
    node = {
        "output_dir": str(tmp_path),
        "shards": ["/data/me/a-{0..9}.tar", "s3://key:secret@bucket/x.tar?token=1", "shards/b"],
        "tokenizer": "google-bert/bert-base-uncased",
        "initial_weights": f"{tmp_path}/outputs/demo",
        "storage_options": {"key": "secret"},
        "mine": {"hub_token": "hf_secret", "pad_token_id": 0},
        "eval": {"imagenet": {"data": {"path": "~/imagenet/val"}}, "prompts": ["a yes/no {}"]},
        "least_scale": math.pi,
    }
    assert published(node) == {
        "output_dir": tmp_path.name,
        "shards": ["a-{0..9}.tar", "s3://bucket/x.tar", "b"],
        "tokenizer": "google-bert/bert-base-uncased",
        "initial_weights": "demo",
        "storage_options": None,
        "mine": {"hub_token": None, "pad_token_id": 0},
        "eval": {"imagenet": {"data": {"path": "val"}}, "prompts": ["a yes/no {}"]},
        "least_scale": math.pi,
    }
