"""`python -m data.manifest` writes a manifest of existing shards."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from align_train.shards.resolve import resolve
from align_train.shards.write import write_shard
from tests.support.commands import finish, run, start
from tests.support.images import plain_image
from tests.support.shards import TXT


def test_the_command_counts_the_pairs_of_existing_shards(tmp_path: Path) -> None:
    for shard in range(3):
        pairs = [
            (f"{index}", {"jpg": plain_image((0, index, 0), "JPEG"), "txt": b"text"})
            for index in range(4 + shard)
        ]
        write_shard(tmp_path / "in" / f"{shard}.tar", pairs)
    done = run("shards=in", cwd=tmp_path, module="data.manifest")
    assert "15 pairs in 3 shards" in done.stdout
    (tmp_path / "moved").mkdir()
    done = run(
        "shards='in/{0..1}.tar'", "to=moved/part.jsonl", cwd=tmp_path, module="data.manifest"
    )
    assert "9 pairs in 2 shards" in done.stdout
    whole, listed = (
        resolve(str(tmp_path / "in"), caption=TXT),
        resolve([str(tmp_path / "in" / "*.tar")], caption=TXT),
    )
    assert whole.identity == listed.identity
    assert resolve(str(tmp_path / "moved" / "part.jsonl"), caption=TXT).identity != whole.identity


def test_the_command_reports_what_shards_hold(tmp_path: Path) -> None:
    members: dict[str, bytes] = {
        "jpg": plain_image((0, 0, 0), "JPEG"),
        "seg.png": plain_image((0, 0, 0)),
        "json": b'{"url": "https://example.org", "sentences": [{"raw": "a"}, {"raw": "b"}]}',
        "npy": b"\x93NUMPY\x00",
    }
    (tmp_path / "in").mkdir()
    pairs = [(f"{index}", members | {"txt": b"a \x1b[2J"}) for index in range(3)]
    text, page = {"txt": b"alone"}, {"jpg": b"<html>", "txt": b"of no image"}
    write_shard(tmp_path / "in" / "0.tar", [*pairs, ("3", members), ("4", text), ("5", page)])
    lines = run("shards=in", cwd=tmp_path, module="data.manifest").stdout.splitlines()

    table = [" ".join(line.split()) for line in lines]
    for row in (
        "jpg 83% image",
        "npy 67% binary",
        "txt 83% text a \\x1b[2J",
        ":sentences.raw 67% 2 texts a",
        ":url 67% text https://example.org",
        "1 name has no image, first 4",
        "1 image has no text in txt, first 3",
        "1 image member holds something else, first 5.jpg",
        "names have several images: jpg is read; data.image=seg.png would read another",
        "settings that fit: data.image=jpg data.caption=txt",
    ):
        assert row in table
    assert table[-1].startswith("next: align-train data=webdataset data.shards=in/")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (["shards=packed"], "shards=packed: packed/1.tar.gz is the first of 2 such files"),
        (["shards=nowhere"], "shards=nowhere: no such manifest, folder or shard"),
        (["shards=in", "caption=[]"], "caption=[]: expected a member such as txt"),
        (["shards=in", "caption={a:1}"], "expected a member such as txt"),
        (["shards=in", "caption=text"], "there are .jpg (1), .txt (1); give caption="),
    ],
)
def test_wrong_settings_name_the_cause_by_the_commands_own_keys(
    settings: list[str], error: str, tmp_path: Path
) -> None:
    pair = {"jpg": plain_image((0, 0, 0), "JPEG"), "txt": b"text"}
    for name in ("in", "packed"):
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "0.tar", [("0", pair)])
    for name in ("1.tar.gz", "2.tgz"):
        (tmp_path / "packed" / name).write_bytes(gzip.compress(b""))
    # What was counted before must not hide what lies beside it.
    (tmp_path / "packed" / "manifest.jsonl").write_text("")
    done = finish(start(*settings, cwd=tmp_path, module="data.manifest"))
    assert done.returncode == 2 and error in done.stderr, done.stderr
