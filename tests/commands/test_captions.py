"""Captions that a run found out belong to the run: a resume does not look again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from align_train.commands.begun import as_begun
from align_train.commands.captions import caption_of_run
from align_train.commands.changes import changed_settings
from align_train.commands.early import look_before_training
from align_train.commands.open_images import open_images
from align_train.commands.summary import _captions
from align_train.config.saved import to_yaml
from align_train.errors import UserError
from align_train.run.folder import RunFolder
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.members import ANY, Members
from align_train.shards.resolve import resolve
from align_train.shards.write import write_shard
from align_train.stream.decode import Views
from align_train.stream.pairs import Pairs
from tests.support.commands import data_module
from tests.support.images import plain_image
from tests.support.settings import composed

SHARDS = ("data=webdataset", "data.shards=shards", "data.tokenizer=tokenizer")


def test_a_resume_has_the_captions_that_the_run_began_with(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    # As runs of before recorded their default, and as runs of today record what they found.
    for recorded in ("txt", "json:captions"):
        before = composed(*SHARDS, f"data.caption={recorded}", "data.held_out_caption=txt")
        folder.config.write_text(to_yaml(before))
        settings = as_begun(folder, composed(*SHARDS), 7)
        changes = changed_settings(folder, settings, 7)
        assert settings.data["caption"] == recorded and not changes
        assert settings.data["held_out_caption"] == "txt"

    given = composed(*SHARDS, "data.caption=[txt,json:alt]", "data.caption_weights=[1,3]")
    settings = as_begun(folder, given, 7)
    changes = changed_settings(folder, settings, 7)
    assert settings.data["caption"] == ["txt", "json:alt"]
    assert changes["data.caption"] == ("json:captions", ["txt", "json:alt"])


def test_captions_are_found_out_for_each_set_of_shards(tmp_path: Path, demo: Path) -> None:
    image = plain_image((0, 0, 0))
    captions = json.dumps({"captions": ["one", "two"]}).encode()
    ours = [(f"{index}", {"png": image, "txt": b"one", "json": captions}) for index in range(32)]
    write_shard(tmp_path / "ours" / "0.tar", ours)
    write_shard(tmp_path / "other" / "0.tar", [("0", {"png": image, "caption.txt": b"three"})])

    shards, other = str(tmp_path / "ours"), str(tmp_path / "other")
    data = data_module(shards, demo / "tokenizer", caption=None, held_out=other)
    assert (data.caption, data.held_out_caption) == ("json:captions", "caption.txt")
    assert _captions(data) == "json:captions, 2 a pair"
    assert data.sets.images_of(None).about()[0][0] == ["three"]

    data = data_module(shards, demo / "tokenizer", caption="txt")
    assert _captions(data) == (
        "txt, 1 a pair; pairs have 2 captions in json:captions: data.caption=json:captions uses all"
    )


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Pairs of others: a hundred without a text, then 28 with two, in the field `captions`."""
    image = plain_image((0, 0, 0))
    pairs = []
    for index in range(128):
        captions = ["one", "two"] if index >= 100 else []
        record = {"captions": captions, "size": 3, "alt": None}
        members = {"png": image, "json": json.dumps(record).encode()}
        if index >= 100:
            members["text.txt"] = b"three"
        pairs.append((f"{index:03}", members))
    write_shard(tmp_path / "others" / "0.tar", pairs)
    return tmp_path / "others"


def early_words(shards: Path, demo: Path) -> tuple[str, ...]:
    """A run of these shards, in a folder of its own: the early look also reads a run's folder."""
    data = ("data=webdataset", f"data.shards={shards}", f"data.tokenizer={demo}/tokenizer")
    return (*data, f"output_dir={shards.parent}")


@pytest.mark.parametrize(
    "place", ["json:foo", "json:size", "json:captions.raw", "foo", "[foo,cls]"]
)
def test_captions_that_no_pair_has_are_refused_early(place: str, shards: Path, demo: Path) -> None:
    words = early_words(shards, demo)
    with pytest.raises(UserError) as error:
        look_before_training(composed(*words, f"data.caption={place}"))
    named = f"data.caption={place}: the first pairs of {shards}/0.tar have no text there; they have"
    assert str(error.value).startswith(named)

    held_out = (f"data.held_out={shards}", f"data.held_out_caption={place}")
    with pytest.raises(UserError, match=r"data\.held_out_caption="):
        look_before_training(composed(*words, *held_out))


@pytest.mark.parametrize("place", ["json:captions", "json:alt", "text.txt", "[foo,text.txt]"])
def test_pairs_that_lack_a_text_pass_the_early_look(place: str, shards: Path, demo: Path) -> None:
    words = early_words(shards, demo)
    look_before_training(composed(*words, f"data.caption={place}"))


def opened(shards: Path, caption: str | list[str] | None = None) -> Pairs:
    """The pairs as `embed` and `search` open them."""
    return open_images(
        str(shards),
        plain=False,
        caption=caption,
        image=None,
        keys=None,
        views=Views(image_size=8, resize_size=8),
        cache=ShardCache(),
        progress=False,
    )


def test_images_to_embed_have_the_captions_that_training_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.dumps({"captions": ["one", "two"]}).encode()
    pair = {"png": plain_image((0, 0, 0)), "json": record}
    write_shard(tmp_path / "0.tar", [("0", pair)])
    assert opened(tmp_path).reader(0).all_texts(0) == ["one", "two"]
    assert capsys.readouterr().out == f"{tmp_path}: captions in json:captions, found out\n"


@pytest.mark.parametrize(
    ("texts", "places"),
    [
        ({"caption0.txt": b"one", "caption2.txt": b"two"}, ["caption0.txt", "caption2.txt"]),
        # An image can be found without a text.
        ({}, []),
    ],
)
def test_a_collection_opens_again_with_the_captions_that_it_records(
    texts: dict[str, bytes], places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard(tmp_path / "0.tar", [("0", {"png": plain_image((0, 0, 0)), **texts})])
    found = opened(tmp_path)
    assert found.caption.setting == places
    assert len(capsys.readouterr().out.splitlines()) == 1

    again = opened(tmp_path, caption=found.caption.setting)
    assert again.caption == found.caption and len(again.reader(0)) == 1
    if texts:
        assert again.reader(0).all_texts(0) == ["one", "two"]


def test_rules_of_keys_that_a_manifest_records_hold_in_the_early_look(
    tmp_path: Path, demo: Path
) -> None:
    pairs = [(f"img.{index}", {"png": plain_image((0, 0, 0)), "txt": b"a"}) for index in range(9)]
    write_shard(tmp_path / "0.tar", pairs)
    caption = CaptionSource.parse("txt")
    members = Members.parse(None, "last_dot")
    manifest = resolve(str(tmp_path), caption=caption, members=members, cache=ShardCache())
    with_rule = [replace(shard, keys="last_dot") for shard in manifest.shards]
    replace(manifest, shards=tuple(with_rule)).write(tmp_path / "manifest.jsonl")

    batch = ("batch_size=8", "norm_group=8", "chunk_size=8")
    words = (*early_words(tmp_path, demo), "data.caption=txt", *batch)
    look_before_training(composed(*words, "data.keys=last_dot"))
    with pytest.raises(UserError, match=r"data\.keys is not set"):
        look_before_training(composed(*words))


def test_other_shards_are_evaluated_by_the_captions_of_the_run_if_they_have_them(
    shards: Path,
) -> None:
    data: dict[str, object] = {"caption": "json:captions", "held_out_caption": None}
    assert caption_of_run(str(shards), data, ANY) == "json:captions"
    data["caption"] = "txt"
    assert caption_of_run(None, data, ANY) == "txt"
    assert caption_of_run(str(shards), data, ANY) is None
