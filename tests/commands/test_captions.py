"""Captions that a run found out belong to the run: a resume does not look again."""

from __future__ import annotations

import json
from pathlib import Path

from align_train.commands.begun import as_begun
from align_train.commands.changes import changed_settings
from align_train.commands.summary import _captions
from align_train.config.saved import to_yaml
from align_train.run.folder import RunFolder
from align_train.shards.write import write_shard
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
