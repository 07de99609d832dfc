"""What `data.pack` refuses at once, in one line, before anything is read."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from align_train.errors import UserError
from data import pack
from tests.support.images import plain_image
from tests.support.packing import pack_settings, packed_records

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a URL to write to": ({"to": "s3://b/x"}, r"^to=s3://b/x: expected a folder here"),
    "a dangling link": ({"to": "dangling"}, r"^to=.*dangling is a link; remove it"),
    "a long name": ({"to": "n" * 240}, r"^to=.*n…: cannot be written \(File name too long\)"),
    "no number of a tar": ({"pairs_per_shard": 10**22}, r"^pairs_per_shard=1.*: expected 1 to"),
    "no vocabulary": ({"vocabulary": 10**22}, r"^vocabulary=1.*: expected 10 to"),
}


def one_pair(folder: Path) -> Path:
    (folder / "a.png").write_bytes(plain_image((1, 2, 3)))
    (folder / "pairs.csv").write_text("path,text\na.png,a text\n")
    return folder / "pairs.csv"


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_refused_before_anything_is_read(case: str, tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    given, words = WRONG[case]
    to = given.pop("to", "packed")
    settings = pack_settings("nothing.csv", tmp_path, **given)
    settings.to = to if "://" in to else str(tmp_path / to)
    with pytest.raises(UserError, match=words):
        pack.run(settings)
    assert [path.name for path in tmp_path.iterdir()] == ["dangling"]


@pytest.mark.parametrize("function", ["write_shard", "draw_sheet"])
def test_a_full_disk_is_named_by_the_folder_that_was_asked_for(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        path = next(item for item in given if isinstance(item, Path))
        if function == "write_shard":
            raise UserError(f"{path}: cannot be written (No space left on device)")
        raise OSError(errno.ENOSPC, "No space left on device", str(path / "sheet"))

    module = "write" if function == "write_shard" else "report"
    monkeypatch.setattr(f"data.packing.{module}.{function}", full)
    to = tmp_path / "packed"
    with pytest.raises(UserError, match=rf"^{to}.*: cannot be written \(No space left on device"):
        pack.run(pack_settings(one_pair(tmp_path), to))
    assert not to.exists()


def test_a_folder_may_be_called_like_a_command_of_webdataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one_pair(tmp_path)
    pack.run(pack_settings("pairs.csv", Path("pipe:cat >stolen/x")))
    assert len(packed_records(tmp_path / "pipe:cat >stolen/x")) == 1
    assert not (tmp_path / "stolen").exists()
