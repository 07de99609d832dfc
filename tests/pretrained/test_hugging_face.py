"""Models go to Hugging Face's ALIGN and back.

Embeddings, pixels and tokens are the same, and every tensor comes back as it was.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AlignModel, AlignProcessor, BertTokenizer, EfficientNetImageProcessor

import align_train
from align_train.errors import UserError
from align_train.stream.decode import Views, decode_centre
from align_train.stream.tokenizer import Tokenizer
from align_train.stream.wordpiece import train_tokenizer
from tests.support.align_folders import (
    BASE,
    SMALL,
    distinct_images,
    folder_of,
    image_processor,
    lively,
)
from tests.support.cards import card_code
from tests.support.commands import REPOSITORY, run
from tests.support.runs import metrics

SHARED = REPOSITORY.parent / "shared" / "data"

# Where Python keeps what it has compiled: without it, transformers would be compiled anew.
BYTECODE = {name: value for name, value in os.environ.items() if name == "PYTHONPYCACHEPREFIX"}


def assert_the_same_numbers(path: Path, config: dict[str, Any], sizes: list[int]) -> None:
    kind: Any = AlignModel
    theirs = kind.from_pretrained(path).eval()
    ours = align_train.load(str(path))
    vocabulary = theirs.config.text_config.vocab_size
    ids = torch.randint(1, vocabulary, (3, 24), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    ids[1, 9:], mask[1, 9:] = 0, 0
    for size in sizes:
        pictures = distinct_images(3, size)
        with torch.no_grad():
            wanted = theirs(pixel_values=pictures, input_ids=ids, attention_mask=mask)
            images, texts = ours.encode_image(pictures), ours.encode_text(ids, mask)
        assert (images @ images.T).min() < 0.9
        torch.testing.assert_close(images, wanted.image_embeds, atol=1e-4, rtol=0)
        torch.testing.assert_close(texts, wanted.text_embeds, atol=1e-4, rtol=0)
        padded = ids.masked_fill(mask == 0, -1)
        torch.testing.assert_close(ours.encode_text(padded), texts, atol=1e-6, rtol=0)
        torch.testing.assert_close(
            ours.similarity(images, texts), wanted.logits_per_image, atol=1e-4, rtol=0
        )
        print(f"{size}: images {(images - wanted.image_embeds).abs().max():.1e}", end=" ")
        print(
            f"logits {(ours.similarity(images, texts) - wanted.logits_per_image).abs().max():.1e}"
        )


def assert_bitwise_equal(one: Path, other: Path) -> None:
    before, after = (load_file(path / "model.safetensors") for path in (one, other))
    assert before.keys() == after.keys()
    assert all(
        torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype
        for name in before
    )
    print(f"{len(before)} tensors bitwise equal")


def test_a_small_align_comes_in_and_goes_out_as_it_was(tmp_path: Path, small_align: Path) -> None:
    assert_the_same_numbers(small_align, SMALL, [32, 33, 40, 45])
    run(f"model={small_align}", "to=again", cwd=tmp_path, module="align_train.export")
    assert_bitwise_equal(small_align, tmp_path / "again")
    before, after = (
        json.loads((path / "config.json").read_text()) for path in (small_align, tmp_path / "again")
    )
    for part in ("vision_config", "text_config"):
        known = {
            key: value
            for key, value in before[part].items()
            if key not in ("image_size", "hidden_dim")
        }
        assert {key: after[part][key] for key in known} == known


@pytest.mark.long
def test_align_base_comes_in_and_goes_out_as_it_was(tmp_path: Path, demo: Path) -> None:
    folder = folder_of(lively(BASE), tmp_path / "align", demo / "tokenizer", resize=346, crop=289)
    assert_the_same_numbers(folder, BASE, [289, 224, 288, 290, 301])
    run(f"model={folder}", "to=again", cwd=tmp_path, module="align_train.export")
    assert_bitwise_equal(folder, tmp_path / "again")


FRESH = """
import json, sys
import torch
from PIL import Image
from transformers import AlignModel, AlignProcessor

folder, pictures = sys.argv[1], sys.argv[2:]
model, processor = AlignModel.from_pretrained(folder), AlignProcessor.from_pretrained(folder)
images = [Image.open(picture) for picture in pictures]
labels = ["a photo of a red circle", "a photo of a blue square"]
inputs = processor(images=images, text=labels, return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits_per_image
probabilities = logits.softmax(dim=1)
assert "align_train" not in sys.modules
print(json.dumps({"logits": logits.tolist(), "probabilities": probabilities.tolist()}))
"""


def saved_pictures(folder: Path, number: int) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = []
    for index in range(number):
        tint, noise = generator.integers(0, 255, 3), generator.integers(-40, 40, (50, 60, 3))
        paths.append(folder / f"{index}.png")
        Image.fromarray((tint + noise).clip(0, 255).astype(np.uint8)).save(paths[-1])
    return paths


def test_an_exported_run_works_in_transformers_alone(tmp_path: Path, trained: Path) -> None:
    run(f"model={trained}", "to=exported", cwd=tmp_path, module="align_train.export")
    pictures = saved_pictures(tmp_path, 100)
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path / "exported"), *map(str, pictures)],
        cwd=tmp_path,
        env={"HF_HUB_OFFLINE": "1", "PATH": "", **BYTECODE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "newly initialized" not in done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    labels = ["a photo of a red circle", "a photo of a blue square"]
    for path in (trained, tmp_path / "exported"):
        ours = align_train.load(str(path)).similarity(
            [Image.open(picture) for picture in pictures], labels
        )
        assert ours.shape == (100, 2)
        difference = (ours - torch.tensor(theirs["logits"])).abs().max()
        print(f"100 pictures: logits differ by {difference:.1e}, of {ours.std():.2f}")
        torch.testing.assert_close(ours, torch.tensor(theirs["logits"]), atol=1e-4, rtol=0)
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "held_out/loss" in card and "AlignModel.from_pretrained" in card and "identity" in card


@pytest.mark.long
def test_the_cards_lines_lay_transparent_images_on_white(tmp_path: Path, trained: Path) -> None:
    run(f"model={trained}", "to=exported", cwd=tmp_path, module="align_train.export")
    Image.new("RGBA", (60, 50), (200, 30, 30, 90)).save(tmp_path / "image.jpg", "PNG")
    code = card_code(tmp_path / "exported")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    printed = [float(number) for number in re.findall(r"\d\.[\d.e-]*", done.stdout)]
    labels = ["a photo of a cat", "a photo of a dog"]
    model = align_train.load(str(trained))
    wanted = model.similarity([tmp_path / "image.jpg"], labels).softmax(dim=1)
    assert printed == pytest.approx(wanted[0].tolist(), abs=1e-3)


@pytest.mark.long
def test_fine_tuning_an_imported_checkpoint_resuming_and_exporting(
    tmp_path: Path, small_align: Path, small_run: tuple[str, ...]
) -> None:
    plain = [override for override in small_run if not override.startswith("model.")]
    begun = (
        *plain,
        "model=huggingface",
        f"model.path={small_align}",
        "optimizer.lr=1e-4",
        "name=tuned",
        "checkpoint_every=1",
    )
    said = run(*begun, "max_steps=3", cwd=tmp_path).stdout
    assert f"begins with  the weights of {small_align}" in said
    folder = tmp_path / "outputs" / "tuned"
    first = torch.load(folder / "checkpoints" / "last", weights_only=True)["state_dict"]
    imported = load_file(small_align / "model.safetensors")
    moved = first["model.image_tower.network.conv_stem.weight"]
    assert not torch.equal(moved, imported["vision_model.embeddings.convolution.weight"])
    torch.testing.assert_close(
        moved, imported["vision_model.embeddings.convolution.weight"], atol=1e-2, rtol=0
    )
    run(*begun, "max_steps=5", cwd=tmp_path)
    assert [int(row["step"]) for row in metrics(folder)] == [1, 2, 3, 4, 5]
    run("model=outputs/tuned", "to=exported", cwd=tmp_path, module="align_train.export")
    exported = load_file(tmp_path / "exported" / "model.safetensors")
    assert exported.keys() == imported.keys()
    for name in (
        "text_model.pooler.dense.weight",
        "text_model.pooler.dense.bias",
    ):  # nobody's, so untouched
        assert torch.equal(exported[name], imported[name])
    # And once more from the run itself, one tower locked.
    run(
        *plain,
        "model=huggingface",
        "model.path=outputs/tuned",
        "model.lock=image",
        "name=again",
        "max_steps=2",
        cwd=tmp_path,
    )
    again = torch.load(tmp_path / "outputs" / "again" / "checkpoints" / "last", weights_only=True)[
        "state_dict"
    ]
    last = torch.load(folder / "checkpoints" / "last", weights_only=True)["state_dict"]
    assert all(torch.equal(again[name], last[name]) for name in last if ".image_tower." in name)
    assert not torch.equal(
        again["model.text_tower.projection.weight"], last["model.text_tower.projection.weight"]
    )


def test_the_recipe_of_fine_tuning_for_retrieval(tmp_path: Path, trained: Path, demo: Path) -> None:
    """From a run, with its tokenizer, which nobody has to name."""
    recipe = (
        "experiment=finetune_retrieval",
        f"model.path={trained}",
        f"data.shards={demo}/train",
        "data.window=64",
    )
    small = ("batch_size=32", "norm_group=8", "chunk_size=8", "max_steps=2", "log_every=1")
    said = run(*recipe, *small, cwd=tmp_path).stdout
    assert f"begins with  the weights of {trained}" in said
    rows = metrics(tmp_path / "outputs" / "finetune_retrieval")
    assert [float(row["lr"]) for row in rows] == pytest.approx([1e-5, 5e-6])
    tokens = [
        path / "tokenizer" / "tokenizer.json"
        for path in (trained, tmp_path / "outputs" / "finetune_retrieval")
    ]
    assert tokens[0].read_text() == tokens[1].read_text()


def test_other_tokens_than_the_weights_know_are_refused(
    tmp_path: Path, trained: Path, demo: Path, small_run: tuple[str, ...]
) -> None:
    train_tokenizer(lambda: [["quite other words"] * 3], size=60, folder=tmp_path / "words")
    shards = (
        "data=webdataset",
        f"data.shards={demo}/train",
        f"data.tokenizer={tmp_path}/words",
        "name=other",
    )
    with pytest.raises(AssertionError, match="gives other tokens than"):
        run(
            "model=huggingface",
            f"model.path={trained}",
            *shards,
            "batch_size=32",
            "norm_group=8",
            "chunk_size=8",
            cwd=tmp_path,
        )


def test_evaluating_a_folder_of_hugging_face(tmp_path: Path, small_align: Path, demo: Path) -> None:
    run(
        f"model={small_align}",
        f"shards={demo}/held_out",
        "to=results",
        cwd=tmp_path,
        module="align_train.evaluate",
    )
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert results["held_out/pairs"] == 64 and 0 <= results["retrieval/image_to_text/recall@1"] <= 1


def compare_pixels(pictures: list[Path], *, resize: int, crop: int) -> None:
    processor, views = image_processor(resize, crop), Views(image_size=crop, resize_size=resize)
    worst, mean = 0.0, 0.0
    for path in pictures:
        theirs = processor(images=Image.open(path).convert("RGB"), return_tensors="pt")[
            "pixel_values"
        ][0]
        ours = torch.from_numpy(decode_centre(path.read_bytes(), views)).permute(2, 0, 1)
        difference = (ours.float() - (theirs + 1) * 127.5).abs()
        worst, mean = max(worst, difference.max().item()), max(mean, difference.mean().item())
    print(
        f"{len(pictures)} images, {crop} of {resize}: at most {worst:.2f} levels, "
        f"{mean:.3f} in the mean of the worst image"
    )
    assert worst <= 1.01 and mean < 0.1


def test_pixels_are_those_of_align_processor(tmp_path: Path) -> None:
    compare_pixels(saved_pictures(tmp_path, 20), resize=36, crop=33)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the photos lie beside the project")
def test_pixels_of_real_photos_are_those_of_align_processor() -> None:
    photos = sorted((SHARED / "photos").rglob("*.jpg"))
    assert len(photos) == 51
    for resize, crop in ((346, 289), (256, 224), (54, 48)):
        compare_pixels(photos, resize=resize, crop=crop)


def test_another_processor_comes_in_and_goes_out_as_it_was(
    tmp_path: Path, small_align: Path
) -> None:
    """An ALIGN whose images have ImageNet's mean, and are not squashed."""
    folder = tmp_path / "align"
    shutil.copytree(small_align, folder)
    (folder / "processor_config.json").unlink()
    make: Any = EfficientNetImageProcessor
    processor = make(
        size={"shortest_edge": 36},
        crop_size={"height": 32, "width": 32},
        do_center_crop=True,
        include_top=False,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    processor.save_pretrained(folder)

    run("model=align", "to=again", cwd=tmp_path, module="align_train.export")
    again = make.from_pretrained(tmp_path / "again")
    for path in saved_pictures(tmp_path, 4):
        image = Image.open(path)
        theirs = processor(images=image, return_tensors="pt")["pixel_values"][0]
        for name in ("align", "again"):
            ours = align_train.load(str(tmp_path / name)).preprocess(image)
            torch.testing.assert_close(ours, theirs, atol=1 / (255 * 0.224), rtol=0)
        exported = again(images=image, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(exported, theirs, atol=1e-6, rtol=0)


def texts_in_five_languages() -> list[str]:
    if not SHARED.is_dir():
        return [
            f"{word} número {n} für Straße 猫の写真 n°{n} l'été"
            for n in range(500)
            for word in ("Haus", "maison")
        ]
    with (SHARED / "emoji" / "names.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    column = next(name for name in rows[0] if name in ("name", "tts"))
    return [row[column] for row in rows][:: len(rows) // 1000][:1000]


@pytest.mark.parametrize("kind", ["ours", "bert"])
def test_tokens_are_those_of_align_processor(tmp_path: Path, kind: str) -> None:
    texts = texts_in_five_languages()
    assert len(texts) == 1000
    train_tokenizer(lambda: [texts], size=2000, folder=tmp_path / "ours")
    if kind == "bert":  # a folder as align-base has it: vocab.txt alone
        words = json.loads((tmp_path / "ours" / "tokenizer.json").read_text())["model"]["vocab"]
        (tmp_path / "bert").mkdir()
        (tmp_path / "bert" / "vocab.txt").write_text(
            "\n".join(sorted(words, key=words.__getitem__)), encoding="utf-8"
        )
        tokenizer: Any = BertTokenizer.from_pretrained(tmp_path / "bert")
    else:
        tokenizer = Tokenizer(str(tmp_path / "ours"), max_tokens=64).hugging_face()
    maker: Any = AlignProcessor
    theirs = maker(image_processor(36, 32), tokenizer)(
        text=texts, truncation=True, return_tensors="pt"
    )
    whole, trimmed = (
        Tokenizer(str(tmp_path / kind), max_tokens=64, trim=trim) for trim in (False, True)
    )
    ids = torch.from_numpy(whole(texts)).long()
    assert torch.equal(ids.clamp(min=0), theirs["input_ids"])
    assert torch.equal((ids >= 0).long(), theirs["attention_mask"])
    config = SMALL | {"text_config": SMALL["text_config"] | {"vocab_size": 2000}}
    lively(config).save_pretrained(tmp_path / "align")
    model = align_train.load(str(tmp_path / "align"))
    short = torch.from_numpy(trimmed(texts[:200])).long()
    assert short.shape[1] < 64
    torch.testing.assert_close(
        model.encode_text(short), model.encode_text(ids[:200]), atol=1e-5, rtol=0
    )


def test_a_folder_without_tokenizer_and_processor_loads_and_says_what_is_missing(
    tmp_path: Path,
) -> None:
    lively(SMALL).save_pretrained(tmp_path / "bare")
    model = align_train.load(str(tmp_path / "bare"))
    assert model.encode_image(distinct_images(2, 32)).shape == (2, 40)
    with pytest.raises(UserError, match=r"no preprocessor_config\.json"):
        model.preprocess(Image.new("RGB", (8, 8)))
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        model.tokenizer("a cat")


def test_what_a_clip_benchmark_does(small_align: Path) -> None:
    """A CLIP benchmark averages the prompts of each class and embeds images in batches."""
    model = align_train.load(str(small_align)).to("cpu").eval()
    transform, tokenizer = model.preprocess, model.tokenizer
    with torch.no_grad():
        weights = []
        for name in ("circle", "square", "star"):
            embeddings = model.encode_text(
                tokenizer([f"a photo of a {name}", f"a {name}"]).to("cpu")
            )
            mean = nn.functional.normalize(embeddings, dim=-1).mean(dim=0)
            weights.append(mean / mean.norm())
        images = torch.stack(
            [transform(Image.new("RGB", (50, 40), colour)) for colour in ("red", "blue")]
        )
        features = nn.functional.normalize(model.encode_image(images), dim=-1)
        logits = 100.0 * features @ torch.stack(weights, dim=1)
    assert logits.shape == (2, 3)


def broken(folder: Path, small_align: Path, what: str) -> Path:
    for file in small_align.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    tensors = load_file(weights)
    if what == "not ALIGN":
        config["model_type"] = "blip"
    elif what == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif what == "shape":
        tensors["text_projection.weight"] = torch.zeros(40, 47)
        save_file(tensors, weights)
    elif what == "missing":
        del tensors["vision_model.encoder.blocks.3.expansion.expand_conv.weight"]
        save_file(tensors, weights)
    elif what == "left over":
        save_file({**tensors, "visual_projection.weight": torch.zeros(2)}, weights)
    elif what == "no weights":
        weights.unlink()
    elif what == "pooling":
        config["vision_config"]["pooling_type"] = "max"
    elif what == "widths":
        config["projection_dim"] = 41
    elif what == "no JSON":
        (folder / "config.json").write_text("{")
        return folder
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("not ALIGN", r"config\.json: model_type is 'blip'; expected Hugging Face's ALIGN"),
        ("truncated", r"model\.safetensors: cannot be read"),
        (
            "shape",
            r"tensor text_projection\.weight has shape \[40, 47\], where this model has \[40, 48\]",
        ),
        ("missing", r"no tensor vision_model\.encoder\.blocks\.3\.expansion\.expand_conv\.weight"),
        ("left over", r"tensor visual_projection\.weight has no place"),
        ("no weights", r"no model\.safetensors there"),
        ("pooling", r"vision_config\.pooling_type is max; our towers can only be mean there"),
        ("widths", r"projection_dim is 41, but the image tower is 40 wide"),
        ("no JSON", r"config\.json: cannot be read as JSON"),
    ],
)
def test_what_is_wrong_with_a_folder_is_told_in_one_line(
    tmp_path: Path, small_align: Path, what: str, words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        align_train.load(str(broken(tmp_path, small_align, what)))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path, "neither config.yaml nor config.json"),
        (tmp_path / "nowhere", "no such folder"),
    ):
        with pytest.raises(UserError, match=words):
            align_train.load(str(path))


@pytest.mark.long
def test_what_hugging_face_cannot_express_is_exported_in_our_own_format(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    run(
        *small_run,
        "+model.image_tower.projection=24",
        "max_steps=2",
        "name=projected",
        cwd=tmp_path,
    )
    with pytest.raises(
        AssertionError, match=r"no linear layer on the image side \(image_tower\.projection=24\)"
    ):
        run(
            "model=outputs/projected",
            "to=theirs",
            "format=huggingface",
            cwd=tmp_path,
            module="align_train.export",
        )
    assert not (tmp_path / "theirs").exists()
    said = run(
        "model=outputs/projected", "to=own", cwd=tmp_path, module="align_train.export"
    ).stdout
    assert (
        "no linear layer on the image side" in said
        and "exported in align_train's own format" in said
    )
    one, other = (align_train.load(str(tmp_path / path)) for path in ("outputs/projected", "own"))
    picture, text = Image.new("RGB", (50, 40), "red"), "a red circle"
    assert torch.equal(one.similarity([picture], [text]), other.similarity([picture], [text]))


def test_towers_alone_from_a_timm_and_a_bert_checkpoint(
    tmp_path: Path, small_run: tuple[str, ...], demo: Path
) -> None:
    from transformers import BertConfig, BertForMaskedLM

    from align_train.model import BertTower, EfficientNetTower

    shape: dict[str, Any] = {"hidden": 32, "layers": 1, "heads": 2, "intermediate": 64}
    wider = shape | {"hidden": 48}
    bert = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
    )
    BertForMaskedLM(bert).save_pretrained(tmp_path / "bert")
    tower = BertTower(dim=8, vocabulary_size=100, pretrained=str(tmp_path / "bert"), **shape)
    saved = load_file(tmp_path / "bert" / "model.safetensors")
    name = "encoder.layer.0.attention.self.query.weight"
    assert torch.equal(tower.network.state_dict()[name], saved[f"bert.{name}"])
    with pytest.raises(
        UserError,
        match=r"embeddings: 100 x 32 in bert, 90 x 48 here; set model\.text_tower\.hidden=32 "
        r"data\.tokenizer=\S+bert model\.vocabulary_size=100$",
    ):
        BertTower(dim=8, vocabulary_size=90, pretrained=str(tmp_path / "bert"), **wider)

    small: dict[str, Any] = {
        "channels": [8],
        "kernels": [3],
        "strides": [2],
        "repeats": [1],
        "expansions": [1],
        "stem": 8,
    }
    image = EfficientNetTower(**small)
    with_head = {
        **image.network.state_dict(),
        "classifier.weight": torch.zeros(2),
        "conv_head.weight": torch.zeros(2),
    }
    save_file(
        {key: value.contiguous() for key, value in with_head.items()}, tmp_path / "timm.safetensors"
    )
    other = EfficientNetTower(**small, projection=5, pretrained=str(tmp_path / "timm.safetensors"))
    assert all(
        torch.equal(value, with_head[key]) for key, value in other.network.state_dict().items()
    )
    with pytest.raises(UserError, match="neither a file here nor a model of timm's"):
        EfficientNetTower(**small, pretrained="efficientnet_b77")
