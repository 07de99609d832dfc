"""What `data.pack` refuses at once, in one line, before anything is read."""

from __future__ import annotations

import errno
import json
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
    "a broken URL": ({"source": "http://[bad/x.csv"}, r"^source=http://\[bad/x.csv: no URL \(Inv"),
    "columns of a folder": (
        {"source": "in", "columns": ["path", "text"]},
        r"^columns=\['path', 'text'\]: source=.*in is a folder of images, whose columns have",
    ),
    "a configuration of no hub": (
        {"source": "in", "hub_config": "default"},
        r"^hub_config=default: source=.*in is not on the hub",
    ),
    "a file that cannot be read": (
        {"source": "/proc/self/mem"},
        r"^/proc/self/mem: cannot be read \(Input/output error\)",
    ),
    "no number of a tar": ({"pairs_per_shard": 10**22}, r"^pairs_per_shard=1.*: expected 1 to"),
    "no kind": ({"vocabulary_kind": "bpe"}, r"^vocabulary_kind=bpe: expected wordpiece or"),
    "a kind of no vocabulary": (
        {"vocabulary": None, "vocabulary_kind": "unigram"},
        r"^vocabulary_kind=unigram: no vocabulary is made; give vocabulary=30000",
    ),
    "no vocabulary": ({"vocabulary": 10**22}, r"^vocabulary=1.*: expected 10 to"),
}


def one_pair(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(plain_image((1, 2, 3)))
    (folder / "pairs.csv").write_text(f"path,text,name\na.png,a text,{folder.name}\n")
    return folder / "pairs.csv"


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_refused_before_anything_is_read(case: str, tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    one_pair(tmp_path / "in").unlink()
    given, words = WRONG[case]
    here = {key: _below(tmp_path, given.get(key, "none")) for key in ("source", "to")}
    given = {key: value for key, value in given.items() if key not in here}
    settings = pack_settings(here["source"], Path(here["to"]), **given)
    settings.to = here["to"]
    with pytest.raises(UserError, match=words):
        pack.run(settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "in"]


def _below(folder: Path, name: str) -> str:
    return name if "://" in name else str(folder / name)


def test_tables_may_be_named_from_here_and_from_the_top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("one", "two"):
        one_pair(tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    tables = [str(tmp_path / "one" / "pairs.csv"), "two/pairs.csv"]
    pack.run(pack_settings(tables, Path("packed"), path="{name}/a.png"))
    assert len(packed_records(tmp_path / "packed")) == 2


def test_a_vocabulary_is_of_the_kind_that_is_asked_for(tmp_path: Path) -> None:
    table = one_pair(tmp_path)
    for kind in ("WordPiece", "Unigram"):
        to = tmp_path / kind
        pack.run(pack_settings(table, to, vocabulary=30, vocabulary_kind=kind.lower()))
        content = json.loads((to / "tokenizer" / "tokenizer.json").read_text())
        assert content["model"]["type"] == kind


def test_images_in_a_folder_beside_the_table_are_found(tmp_path: Path) -> None:
    table = one_pair(tmp_path)
    (tmp_path / "Images").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "Images" / "a.png")
    images = tmp_path / "Images"
    with pytest.raises(UserError, match=rf"1 of 1 .* in {images}: root={images}$"):
        pack.run(pack_settings(table, tmp_path / "packed"))
    pack.run(pack_settings(table, tmp_path / "packed", root=str(images)))


@pytest.mark.parametrize("function", ["write_shard", "draw_sheet"])
def test_a_full_disk_is_named_by_the_folder_that_was_asked_for(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any, **_: Any) -> None:
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
