"""A checkpoint of a run is named by its path wherever a model is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

import align_train
from align_train.commands.results_folder import results_folder
from align_train.config.command_schema import EvaluateSettings
from align_train.errors import UserError
from align_train.pretrained.card import card
from align_train.pretrained.open import open_pretrained
from align_train.pretrained.origin import _named
from align_train.run.folder import RunFolder


def test_a_checkpoint_is_opened_by_its_path_or_by_a_link_to_it(
    trained: Path, tmp_path: Path
) -> None:
    earlier = RunFolder(trained).checkpoint_of(8)
    link = tmp_path / "best"
    link.symlink_to(earlier)
    state = torch.load(earlier, weights_only=True)["state_dict"]
    for path in (earlier, link):
        opened = open_pretrained(str(path))
        assert (opened.step, opened.name, opened.path) == (8, "run-8", trained)
        for name, value in opened.build().state_dict().items():
            assert torch.equal(value, state[f"model.{name}"]), name

    assert open_pretrained(str(trained)).step == 12
    images = torch.zeros(1, 3, 32, 32)
    last = align_train.load(f"{trained}/checkpoints/last").encode_image(images)
    assert torch.equal(last, align_train.load(str(trained)).encode_image(images))
    assert not torch.equal(last, align_train.load(str(earlier)).encode_image(images))


def test_what_is_said_of_a_checkpoint_is_of_its_step(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = RunFolder(trained).checkpoint_of(8)
    assert _named(str(earlier)) == "run, step 8"
    text = card(open_pretrained(str(earlier)), "mine", reader="transformers")
    assert "| steps | 8 |" in text and "| pairs seen | 256 |" in text
    assert "Not evaluated at this step" in text  # results.json is of the last step

    monkeypatch.chdir(tmp_path)
    given = EvaluateSettings(**dict.fromkeys(EvaluateSettings.__dataclass_fields__))  # type: ignore[arg-type]
    given.model = str(earlier)
    folder = results_folder(given, open_pretrained(given.model))
    assert folder == tmp_path / "outputs" / "run-8_evaluation"


def test_what_is_no_checkpoint_of_a_run_is_refused(trained: Path, tmp_path: Path) -> None:
    away = tmp_path / "step-00000008.ckpt"
    shutil.copy(RunFolder(trained).checkpoint_of(8), away)
    with pytest.raises(UserError, match="a file; expected a run's folder, one of its checkpoints"):
        open_pretrained(str(away))
    with pytest.raises(UserError, match="no such folder; expected a run's folder, one of its"):
        open_pretrained(f"{trained}/checkpoints/best")

    copy = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    torn = RunFolder(copy).checkpoint_of(8)
    os.truncate(torn, 1000)
    with pytest.raises(UserError, match=r"not a readable checkpoint .*give another one"):
        open_pretrained(str(torn)).build()
