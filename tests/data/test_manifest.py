"""`python -m data.manifest` writes a manifest of existing shards."""

from __future__ import annotations

from pathlib import Path

from align_train.shards.resolve import resolve
from align_train.shards.write import write_shard
from tests.support.commands import run
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
    write_shard(tmp_path / "in" / "0.tar", [*pairs, ("3", members), ("4", {"txt": b"alone"})])
    lines = run("shards=in", cwd=tmp_path, module="data.manifest").stdout.splitlines()

    table = [" ".join(line.split()) for line in lines]
    for row in (
        "jpg 80% image",
        "npy 80% binary",
        "txt 80% text a \\x1b[2J",
        ":sentences.raw 80% 2 texts a",
        ":url 80% text https://example.org",
        "1 names have no image, first 4",
        "1 images have no text in txt, first 3",
        "names have several images: jpg is read; data.image=seg.png would read another",
        "settings that fit: data.image=jpg data.caption=txt",
    ):
        assert row in table
    assert table[-1].startswith("next: align-train data=webdataset data.shards=in/")
