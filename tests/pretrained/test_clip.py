"""Hugging Face's CLIP embeds and scores here as it does there, whatever the length of its texts."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from transformers import CLIPImageProcessor, CLIPTokenizer

import align_train
from align_train.commands.score import score
from align_train.config.command_schema import ScoreSettings
from align_train.config.compose import compose_command
from align_train.errors import UserError
from align_train.index.scores import Scores
from align_train.model.weights import find
from align_train.pretrained.identity import identity_of
from align_train.shards.write import write_shard
from tests.support.clip_folders import POSITIONS, make_clip
from tests.support.commands import made_once, run
from tests.support.images import encoded, picture

# Letters of a text; with the tokens at both ends 73 to 78, and 200.
LENGTHS = (*range(71, 77), 198)

TEXTS = [
    "",
    "a cat",
    "!!! <|endoftext|> goes on",
    "Ein Kätzchen, 猫 and 🐈",
    *("".join(np.random.default_rng(length).choice(list("abcdef"), length)) for length in LENGTHS),
]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "clip", make_clip)


@pytest.fixture(scope="session", params=[False, True], ids=["end", "legacy end"])
def any_clip(
    request: pytest.FixtureRequest, clip: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if not request.param:
        return clip
    return made_once(
        tmp_path_factory, "clip_legacy", lambda folder: make_clip(folder, legacy_end=True)
    )


def their_model(folder: Path) -> Any:
    from transformers import CLIPModel

    model: Any = CLIPModel
    return model.from_pretrained(folder).eval()


@torch.inference_mode()
def their_texts(folder: Path, texts: list[str]) -> torch.Tensor:
    tokenizer: Any = CLIPTokenizer
    inputs = tokenizer.from_pretrained(folder)(
        texts, padding=True, truncation=True, return_tensors="pt"
    )
    features = their_model(folder).get_text_features(**inputs)
    return normalize(getattr(features, "pooler_output", features), dim=-1)


@torch.inference_mode()
def their_images(folder: Path, images: list[Any]) -> torch.Tensor:
    processor: Any = CLIPImageProcessor
    inputs = processor.from_pretrained(folder)(images, return_tensors="pt")
    features = their_model(folder).get_image_features(**inputs)
    return normalize(getattr(features, "pooler_output", features), dim=-1)


def test_texts_of_any_length_are_embedded_as_there(any_clip: Path) -> None:
    """Cutting keeps the end token, whose state is the text's; padding changes nothing."""
    model = align_train.load(str(any_clip))
    wanted = their_texts(any_clip, TEXTS)
    assert (wanted @ wanted.T - torch.eye(len(TEXTS))).max() < 0.999  # no two texts alike

    with torch.inference_mode():
        padded = model.encode_text(model.tokenizer(TEXTS))
    torch.testing.assert_close(padded, wanted, atol=1e-6, rtol=0)

    tokenizer = model.trimming_tokenizer()
    for text, row in zip(TEXTS, wanted, strict=True):
        with torch.inference_mode():
            alone = model.encode_text(torch.from_numpy(tokenizer([text])))[0]
        torch.testing.assert_close(alone, row, atol=1e-6, rtol=0)

    ids, cut = tokenizer.with_cut(TEXTS)
    assert ids.shape[1] == POSITIONS
    assert cut == sum(length + 2 > POSITIONS for length in LENGTHS) == 2


def test_images_and_similarities_are_theirs(clip: Path) -> None:
    model = align_train.load(str(clip))
    images = [picture(0).resize((90, 41)), picture(20).resize((33, 64))]
    with torch.inference_mode():
        ours = model.encode_images(images)
    theirs = their_images(clip, images)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)

    scale = their_model(clip).logit_scale.exp().item()
    wanted = scale * theirs @ their_texts(clip, TEXTS[:3]).T
    torch.testing.assert_close(model.similarity(images, TEXTS[:3]), wanted, atol=2e-3, rtol=0)


def test_scores_are_theirs(
    any_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [picture(label % 40) for label in range(len(TEXTS))]
    texts = [text or "x" for text in TEXTS]
    pairs = [
        (f"{index:02}", {"png": encoded(image, "PNG"), "txt": text.encode()})
        for index, (image, text) in enumerate(zip(images, texts, strict=True))
    ]
    write_shard(tmp_path / "shards" / "0.tar", pairs)
    words = (f"model={any_clip}", f"shards={tmp_path}/shards", f"to={tmp_path}/scores")
    score(compose_command("score", ScoreSettings, *words, "workers=0"))
    printed = capsys.readouterr().out
    assert printed.count("2 of 11 texts (18.2%) were longer than the model takes") == 1

    keys, columns = Scores.open(tmp_path / "scores").read(0)
    assert keys.tolist() == [f"{index:02}".encode() for index in range(len(texts))]
    wanted = (their_images(any_clip, images) * their_texts(any_clip, texts)).sum(dim=1)
    np.testing.assert_allclose(columns["similarity"], wanted.numpy(), atol=2e-5)


@pytest.mark.long
def test_it_is_evaluated(clip: Path, demo: Path, tmp_path: Path) -> None:
    words = (f"model={clip}", f"shards={demo}/held_out", "eval=pairs", f"to={tmp_path}/results")
    run(*words, cwd=tmp_path, module="align_train.evaluate")
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert results["held_out/pairs"] == 64 and "retrieval/text_to_image/recall@1" in results


def test_a_tokenizer_that_does_not_end_texts_is_refused(clip: Path, tmp_path: Path) -> None:
    """Its texts would all be the state of the first token."""
    copy = shutil.copytree(clip, tmp_path / "copy")
    # Of another class: CLIP's own would add the token, whatever that file says.
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    file = copy / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": None}))
    with pytest.raises(UserError, match="adds no special token"):
        align_train.load(str(copy))


@pytest.mark.parametrize("kind", ["altclip", "xlm-roberta"])
def test_other_models_are_refused(kind: str, clip: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(clip, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": kind}))
    with pytest.raises(UserError, match=f"model_type is '{kind}'; expected Hugging Face's ALIGN"):
        align_train.load(str(copy))


def test_more_tokens_than_positions_are_refused(clip: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(clip, tmp_path / "copy")
    file = copy / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 78}))
    with pytest.raises(UserError, match=r"max_position_embeddings is 77, but .* 78; mend"):
        align_train.load(str(copy))


def test_another_number_of_heads_or_end_token_is_another_identity(
    clip: Path, tmp_path: Path
) -> None:
    identity = identity_of(align_train.load(str(clip)))
    for name, value in (("num_attention_heads", 2), ("eos_token_id", 5)):
        copy = shutil.copytree(clip, tmp_path / name)
        config = json.loads((copy / "config.json").read_text())
        config["text_config"][name] = value
        (copy / "config.json").write_text(json.dumps(config))
        changed = identity.difference(identity_of(align_train.load(str(copy))))
        assert changed.startswith(f"model.text_tower.config.{name} ")


@pytest.mark.parametrize(
    ("others", "fetched"),
    [
        ([], ["pytorch_model.bin"]),
        (["model.safetensors"], ["model.safetensors"]),
        (
            ["open_clip_model.safetensors"],
            ["open_clip_model.safetensors", "pytorch_model.bin"],
        ),
    ],
    ids=["alone", "beside safetensors", "beside open_clip's"],
)
def test_old_weights_are_fetched_from_the_hub_if_there_are_no_others(
    others: list[str], fetched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"config.json", "pytorch_model.bin", *others}

    def fetch(_: str, *, allow_patterns: list[str]) -> str:
        for name in there:
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (tmp_path / name).touch()
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert find("openai/clip-vit-base-patch32", wanted="CLIP") == tmp_path
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", *fetched}
