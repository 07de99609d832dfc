"""The tokenizer turns texts into ids: those of Hugging Face's own, for any kind of tokenizer."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as TokenizersTokenizer
from tokenizers.processors import ByteLevel, TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from align_train.errors import UserError
from align_train.stream import tokenizer_files
from align_train.stream.token_ids import PAD
from align_train.stream.tokenizer import Tokenizer
from tests.support.tokenizers import KINDS, TEXTS, make_tokenizer


def test_texts_are_cut_and_padded_to_multiples_of_eight(demo: Path) -> None:
    tokenizer = Tokenizer(str(demo / "tokenizer"), max_tokens=20)
    ids = tokenizer(["a red circle", "a very long text " * 20])
    assert ids.shape == (2, 20) and ids.dtype == np.int32
    cls, sep = (tokenizer.tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    assert ids[0, 0] == ids[1, 0] == cls and ids[1, -1] == sep
    words = int((ids[0] != PAD).sum())
    assert ids[0, words - 1] == sep and (ids[0, words:] == PAD).all()
    alone = tokenizer(["a red circle"])
    assert alone.shape == (1, 8) and np.array_equal(alone[0], ids[0, :8])


def theirs(folder: Path) -> Any:
    """As `transformers` opens the folder."""
    make: Any = AutoTokenizer
    if not (folder / "tokenizer_config.json").exists():
        make = PreTrainedTokenizerFast
        return make(tokenizer_file=str(folder / "tokenizer.json"))
    return make.from_pretrained(folder)


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to: Path = tmp_path_factory.mktemp("tokenizer") / request.param
    make_tokenizer(to, request.param)
    return to


@pytest.mark.parametrize("max_tokens", [4, 16, 77])
def test_ids_are_those_of_hugging_face(folder: Path, max_tokens: int) -> None:
    """Alone, beside a long one, padded to the end; after saving, too."""
    tokenizer = Tokenizer(str(folder), max_tokens=max_tokens)
    hugging_face = theirs(folder)
    wanted = [
        hugging_face(text, truncation=True, max_length=max_tokens)["input_ids"] for text in TEXTS
    ]
    rows = tokenizer(TEXTS)
    assert [row[row != PAD].tolist() for row in rows] == wanted
    assert [row[: len(ids)].tolist() for row, ids in zip(rows, wanted, strict=True)] == wanted
    for text, ids in zip(TEXTS, wanted, strict=True):
        (alone,) = tokenizer([text])
        assert alone[alone != PAD].tolist() == ids
    assert rows.max() < tokenizer.vocabulary_size


def test_a_saved_tokenizer_is_the_same_to_us_and_to_hugging_face(
    folder: Path, tmp_path: Path
) -> None:
    tokenizer = Tokenizer(str(folder), max_tokens=16)
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer(str(tmp_path / "saved"), max_tokens=16)
    hugging_face = theirs(tmp_path / "saved")
    before = theirs(folder)
    assert again.digest == tokenizer.digest
    assert np.array_equal(again(TEXTS), tokenizer(TEXTS))
    assert hugging_face(TEXTS)["input_ids"] == before(TEXTS)["input_ids"]
    cut = hugging_face(TEXTS, truncation=True)["input_ids"]
    assert cut == [row[row != PAD].tolist() for row in tokenizer(TEXTS)]
    if (folder / "tokenizer_config.json").exists():
        assert hugging_face.special_tokens_map == before.special_tokens_map
    copied = pickle.loads(pickle.dumps(tokenizer))
    assert np.array_equal(copied(TEXTS), tokenizer(TEXTS))


def test_the_hash_of_a_wordpiece_is_that_of_its_file(tmp_path: Path) -> None:
    """A run of before accepts its data."""
    make_tokenizer(tmp_path, "wordpiece")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    parts = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "model")
    text = json.dumps({name: content[name] for name in parts}, sort_keys=True)
    wanted = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert Tokenizer(str(tmp_path), max_tokens=9).digest == wanted


def test_facts_are_read_off_the_tokenizer(tmp_path: Path) -> None:
    opened = {}
    for kind in ("wordpiece", "clip", "no_pad", "xlm_roberta"):
        make_tokenizer(tmp_path / kind, kind)
        opened[kind] = Tokenizer(str(tmp_path / kind), max_tokens=16)
    assert all(tokenizer.begins and tokenizer.ends for tokenizer in opened.values())

    # CLIP's end token, which is its unknown one as well, is not counted as unknown.
    counted = opened["clip"].count(["a red circle", "猫"])
    assert counted.unknown == 0 and counted.texts == 2
    counted = opened["wordpiece"].count(["a red circle", "ж ж ж"])
    assert (counted.unknown, counted.tokens) == (3, 6)


@pytest.mark.parametrize(
    ("post_processor", "told"),
    [
        (None, "adds no special token"),
        ("$A </s>", "begins no text with a special token"),
        ("<s> $A", "ends no text with a special token"),
    ],
)
def test_a_tower_gets_the_special_token_whose_state_it_reads(
    post_processor: str | None, told: str, tmp_path: Path
) -> None:
    make_tokenizer(tmp_path, "no_pad")
    plain = TokenizersTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    special = [(token, plain.token_to_id(token)) for token in ("<s>", "</s>")]
    if post_processor is None:
        plain.post_processor = ByteLevel()
    else:
        plain.post_processor = TemplateProcessing(single=post_processor, special_tokens=special)
    plain.save(str(tmp_path / "tokenizer.json"))

    tower = SimpleNamespace(end_id=1, pooling="first")
    with pytest.raises(UserError, match=told):
        Tokenizer(str(tmp_path), max_tokens=9).check_tower(tower)


def test_max_tokens_leave_room_for_a_word(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, "wordpiece")
    with pytest.raises(UserError, match=r"max_tokens=2: expected at least 3"):
        Tokenizer(str(tmp_path), max_tokens=2)
    assert Tokenizer(str(tmp_path), max_tokens=3)(["a a a"]).shape == (1, 3)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tokenizer(tmp_path, "sentencepiece")
    monkeypatch.setattr(tokenizer_files, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'align_train\[sentencepiece\]'"):
        Tokenizer(str(tmp_path), max_tokens=9)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"tokenizer.json": "{"}, "is not a tokenizer"),
        ({"tokenizer.json": "{}", "tokenizer_config.json": "{}"}, "is not a tokenizer"),
        ({"x.model": "?", "tokenizer_config.json": "{}"}, "is not a tokenizer|no fast form"),
        ({"readme": ""}, "no tokenizer.json there"),
    ],
)
def test_what_is_no_tokenizer_is_refused_in_one_line(
    files: dict[str, str], told: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=told) as refused:
        Tokenizer(str(tmp_path), max_tokens=9)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["xlm_roberta", "bert"])
def test_a_file_alone_knows_its_unknown_token(kind: str, tmp_path: Path) -> None:
    """It does not say which special token that is; its model does."""
    make_tokenizer(tmp_path, kind)
    texts = ["☃ two stars", "☂"]
    whole = Tokenizer(str(tmp_path), max_tokens=16).count(texts)
    Tokenizer(str(tmp_path), max_tokens=16).tokenizer.save(str(tmp_path / "alone.json"))
    alone = Tokenizer(str(tmp_path / "alone.json"), max_tokens=16).count(texts)
    assert alone == whole and alone.unknown >= 2
