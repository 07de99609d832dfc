"""A run says before its first step how many tokens its vocabulary lacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align_train.commands.resume import _refuse_other_tokens, continue_stretch
from align_train.commands.unknown_tokens import (
    counted_in_sets,
    counted_tokens,
    spell_tokens,
    spell_unknown,
)
from align_train.errors import UserError
from align_train.evals import Retrieval
from align_train.run.folder import RunFolder
from align_train.shards.write import write_shard
from align_train.stream.classes import ClassList
from align_train.stream.sets import Shards
from align_train.stream.tokenizer import Counted, Tokenizer
from tests.support.commands import data_module
from tests.support.images import encoded, picture


@pytest.fixture
def japanese(tmp_path: Path) -> str:
    texts = ["赤い 丸", "DVD", "red 星", "a red circle " * 9]
    image = encoded(picture(0), "PNG")
    pairs = [(str(i), {"png": image, "txt": text.encode()}) for i, text in enumerate(texts)]
    write_shard(tmp_path / "ja" / "0.tar", pairs)
    return str(tmp_path / "ja")


def test_unknown_tokens_of_each_set_are_counted(demo: Path, japanese: str) -> None:
    data = data_module(str(demo / "train"), demo / "tokenizer", held_out=str(demo / "held_out"))
    evaluators = {
        "retrieval": Retrieval(),
        "ja": Retrieval(data=Shards(shards=japanese)),
        "ja_again": Retrieval(data=Shards(shards=japanese)),
    }
    found = counted_tokens(data, evaluators)
    assert list(found) == ["training", "held out", "ja"]
    assert found["training"].texts > 100 and found["training"].unknown == 0

    # Four texts; 赤, い, 丸 and 星 are unknown to the demo, and the last one is cut.
    ja = found["ja"]
    assert (ja.texts, ja.unknown, ja.cut) == (4, 4, 1)
    assert found["ja"] == counted_in_sets(data.sets, evaluators)["ja"]
    line = spell_tokens(found)
    assert line.startswith("training 0% unknown") and ", held out 0% unknown" in line
    assert ", ja 18% unknown and 25% of the texts cut" in line
    warning = spell_unknown(found, "here")
    assert "18% of ja: tokens that data.tokenizer=here lacks" in warning
    assert "training" not in warning


def test_few_unknown_tokens_are_no_warning() -> None:
    few = Counted(texts=10, cut=0, tokens=1000, unknown=50)
    assert spell_unknown({"training": few}, "here") == ""
    many = Counted(texts=10, cut=0, tokens=1000, unknown=51)
    assert spell_unknown({"training": few, "ja": many}, "here").startswith("5.1% of ja: ")


def test_what_is_not_counted_is_said_and_a_trained_model_keeps_its_tokens() -> None:
    """Shards that are fetched later are not looked into."""
    many = Counted(texts=10, cut=0, tokens=10, unknown=9)
    line = spell_tokens({"ja": many})
    assert line == ("training not counted (none of its shards is on this machine), ja 90% unknown")
    assert spell_tokens({}) == ""
    warning = spell_unknown({"ja": many}, "here", trained=True)
    assert "data.tokenizer" not in warning and "its results there say little" in warning


def test_a_resume_refuses_a_tokenizer_that_was_made_anew(demo: Path, tmp_path: Path) -> None:
    """Of the same size, so that its ids fit the run's text tower, and mean other words."""
    data = data_module(str(demo / "train"), demo / "tokenizer")
    folder = RunFolder(tmp_path)
    assert isinstance(data.vocabulary, Tokenizer)
    data.vocabulary.save(folder.tokenizer)
    _refuse_other_tokens(data.vocabulary, folder)

    content = (demo / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8")
    other = json.loads(content)
    words = other["model"]["vocab"]
    words["red"], words["blue"] = words["blue"], words["red"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(other), encoding="utf-8")
    data.vocabulary = Tokenizer(str(tmp_path / "tokenizer.json"), max_tokens=8)
    with pytest.raises(UserError, match=f"set data.tokenizer={folder.tokenizer}, the run's own"):
        continue_stretch(data, folder, 1)


def test_labels_have_no_tokens(demo: Path) -> None:
    data = data_module(str(demo / "train"), demo / "tokenizer")
    data.vocabulary = ClassList(2)
    data.sets.vocabulary = ClassList(2)
    assert counted_tokens(data, {"retrieval": Retrieval()}) == {}
