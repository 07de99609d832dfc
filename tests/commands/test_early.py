"""Mistakes of a first day with a trained model are found before torch is imported."""

from __future__ import annotations

import signal
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from align_train.cluster import gpus
from align_train.commands.early import look_before_opening
from align_train.config.command_schema import (
    EmbedSettings,
    EvaluateSettings,
    ExportSettings,
    ScoreSettings,
    SearchSettings,
)
from align_train.config.compose import compose_command
from align_train.errors import Interrupted, UserError
from tests.support.images import plain_image
from tests.support.signals import catching_in_a_test

SCHEMAS = {"embed": EmbedSettings, "evaluate": EvaluateSettings, "export": ExportSettings}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("embed model=run to=new images=/nowhere", "images=/nowhere: no such folder"),
        ("embed model=run to=new images=s3://a/b", "images=s3://a/b: a URL"),
        ("embed model=run to=new", "give shards=…, .* or images=…"),
        ("embed model=run to=new shards=images images=images", "; one of them"),
        ("embed model=run to=new shards=images", "shards=images: .*; or give images=images"),
        ("embed model=run to=new images=images precision=int8", "precision=int8: expected float16"),
        ("embed model=run to=new images=images device=cuda", "device=cuda: not there .no NVIDIA"),
        ("evaluate model=run device=cuda:1", "device=cuda:1: not there .* take device=cpu"),
        ("export model=run to=images", "to=images: exists already"),
        ("export model=nope to=new", "model=nope: no such folder; expected a run's folder"),
    ],
)
def test_a_mistake_is_told_early(
    line: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run", "config.yaml").touch()
    Path("images").mkdir()
    Path("images", "cat.png").write_bytes(plain_image((0, 0, 255)))
    monkeypatch.setattr(gpus, "_DEVICE_FILES", ())
    monkeypatch.setattr(gpus, "_nvml", lambda: None)
    gpus.gpus.cache_clear()

    command, *words = line.split()
    settings: Any = compose_command(command, SCHEMAS[command], *words)
    with pytest.raises(UserError, match=told):
        look_before_opening(settings)
    gpus.gpus.cache_clear()


def test_a_collection_in_a_colleagues_folder_is_only_read(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o555)
    words = ("model=owner/name", f"images={tmp_path}", f"to={tmp_path}/theirs")
    look_before_opening(compose_command("embed", EmbedSettings, *words))


def test_images_and_a_name_on_the_hub_pass(tmp_path: Path) -> None:
    words = ("model=owner/name", f"images={tmp_path}", f"to={tmp_path / 'new'}")
    look_before_opening(compose_command("embed", EmbedSettings, *words))


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("embed model=no to=new images=no", "shards that were done stay, and the same command"),
        ("score model=no to=new shards=no", "shards that were done stay, and the same command"),
        ("evaluate model=no", "no results are saved, and the same command begins anew"),
        ("export model=no to=new", "nothing is exported, and the same command begins anew"),
        ("search index=no text=dog", "the search is not finished, and the same command begins"),
    ],
)
def test_a_command_that_a_signal_ends_says_what_is_left(line: str, left: str) -> None:
    command, *words = line.split()
    settings: Any = compose_command(
        command, (SCHEMAS | {"score": ScoreSettings, "search": SearchSettings})[command], *words
    )
    with catching_in_a_test():
        with pytest.raises(UserError):
            import_module(f"align_train.{command}").run(settings)
        with pytest.raises(Interrupted, match=f"stopped by SIGTERM; {left}"):
            signal.raise_signal(signal.SIGTERM)
